"""Saved and loaded contexts and conversations: what comes back, and that nothing else is disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Gate, Scripted, echo, ids, run_async, scripted, texts, wait_until, within

from api.session_helpers import PROMPT, SMALL, forged, refused
from headrace import Context, ConversationManager, HeadraceError, InvalidRequestError, StreamConfig

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>"


# What comes back


def test_what_was_saved_is_not_computed_again(saved_session: Path, fresh_model: Scripted) -> None:
    with Context.load(fresh_model.model, saved_session) as context:
        assert context.session is not None
        assert context.session.num_cached == len(PROMPT + "there was") - 1
        assert fresh_model.engine.metrics().kv_cached == context.session.num_cached
        assert fresh_model.num_computed() == 0
        result = context.generate(PROMPT + "there was no more")
        assert result.usage.cached_tokens == context.session.num_cached
        # The beginning alone is there as well, for any context.
        assert fresh_model.model.generate(PROMPT).usage.cached_tokens == len(PROMPT) - 1


def test_the_settings_come_back(session_path: Path, fresh_model: Scripted) -> None:
    given = StreamConfig(
        max_tokens=3,
        temperature=0,
        stop_sequences=("x", "é"),
        logit_bias={5: -1.5},
        json_schema={"type": "integer"},
        thinking_tags=("<t>", "</t>"),
        seed=2**63,
    )
    with scripted("1", chat_template=TEMPLATE) as made:
        context = Context(made.model, given.replace(json_schema=None), system_prompt="Be brief.")
        context.generate("hi")
        context._caller.defaults = given  # pyright: ignore[reportPrivateUsage]
        context.save(session_path)
    loaded = Context.load(fresh_model.model, session_path)
    assert loaded._caller.defaults == given  # pyright: ignore[reportPrivateUsage]
    assert loaded._caller.system_prompt == "Be brief."  # pyright: ignore[reportPrivateUsage]
    other = Context.load(fresh_model.model, session_path, max_tokens=4, system_prompt=None)
    assert other._caller.defaults == given.replace(max_tokens=4)  # pyright: ignore[reportPrivateUsage]
    assert other._caller.system_prompt is None  # pyright: ignore[reportPrivateUsage]


def test_a_type_as_schema_is_left_out(session_path: Path, fresh_model: Scripted) -> None:
    with scripted("1") as made:
        context = Context(made.model)
        context.generate("hi")
        context._caller.defaults = StreamConfig(json_schema=list[int])  # pyright: ignore[reportPrivateUsage]
        context.save(session_path)
    assert Context.load(fresh_model.model, session_path)._caller.defaults == StreamConfig()  # pyright: ignore[reportPrivateUsage]


def test_the_last_stream_counts_and_a_cancelled_one_is_one(session_path: Path) -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made, Context(made.model) as context:
        stream = context.generate_stream(PROMPT)
        gate.step(3)
        gate.wait()
        stream.cancel()
        gate.open()
        assert texts(stream).startswith("abc")
        made.settle()
        session = context.save(session_path)
        assert session.tokens[: len(PROMPT) + 3] == tuple(ids(PROMPT + "abc"))
        assert session.num_cached >= len(PROMPT) + 2


def test_nothing_to_save(session_path: Path, fresh_model: Scripted) -> None:
    with pytest.raises(InvalidRequestError, match="no stream of this context has ended"):
        Context(fresh_model.model).save(session_path)
    assert not session_path.exists()


def test_what_was_evicted_is_saved_without_its_kv(session_path: Path, fresh_model: Scripted) -> None:
    with scripted("abc") as made, Context(made.model) as context:
        context.generate(PROMPT)
        made.engine.clear_cache()
        session = context.save(session_path)
        assert session.num_cached == 0
    loaded = Context.load(fresh_model.model, session_path)
    assert loaded.session is not None
    assert (loaded.session.tokens, loaded.session.num_cached) == (session.tokens, 0)
    assert loaded.generate(PROMPT).usage.cached_tokens == 0


def test_a_part_that_is_left_is_saved(session_path: Path, fresh_model: Scripted) -> None:
    with scripted(echo, num_cells=200, prefix_cache_mb=0, **SMALL) as made, Context(made.model) as context:
        context.generate("a" * 150, max_tokens=2)
        made.model.generate("b" * 100, max_tokens=2)
        session = context.save(session_path)
        assert 0 < session.num_cached < 150
    loaded = Context.load(fresh_model.model, session_path)
    assert loaded.generate("a" * 150).usage.cached_tokens == session.num_cached


def test_a_model_whose_memory_cannot_be_cut_saves_the_tokens_only(session_path: Path) -> None:
    with scripted("abc", can_drop_partial=False) as made, Context(made.model) as context:
        context.generate(PROMPT)
        assert context.save(session_path).num_cached == 0
        assert Context.load(made.model, session_path).session == context.save(session_path)


def test_a_second_load_shares_the_first(saved_session: Path, fresh_model: Scripted) -> None:
    first = Context.load(fresh_model.model, saved_session)
    used = fresh_model.engine.metrics().kv_cached
    second = Context.load(fresh_model.model, saved_session)
    fork = second.fork()
    assert fresh_model.engine.metrics().kv_cached == used
    assert first.session == second.session == fork.session
    for context in (first, second, fork):
        assert context.generate(PROMPT + "there was no more").usage.cached_tokens >= used


def test_a_fork_has_a_life_of_its_own(saved_session: Path, fresh_model: Scripted, tmp_path: Path) -> None:
    context = Context.load(fresh_model.model, saved_session, max_tokens=5)
    fork = context.fork()
    context.close()
    assert fork.generate("x").usage.completion_tokens == 2
    assert fork._caller.defaults.max_tokens == 5  # pyright: ignore[reportPrivateUsage]
    assert fork.save(tmp_path / "other").tokens == (*ids("x!"), 0)


def test_a_session_is_saved_again(saved_session: Path, fresh_model: Scripted, tmp_path: Path) -> None:
    again = Context.load(fresh_model.model, saved_session).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved_session.read_bytes()
    assert again.num_bytes == saved_session.stat().st_size


def test_in_tasks(session_path: Path) -> None:
    async def main() -> None:
        with scripted("abc", **SMALL) as made:
            async with Context(made.asynchronous) as context:
                await context.generate(PROMPT)
                session = await context.save(session_path)
            made.engine.clear_cache()
            async with await Context.load(made.asynchronous, session_path, max_tokens=1) as context:
                assert context.session == session
                result = await context.fork().generate(PROMPT + "abcdef")
                assert result.usage.cached_tokens == session.num_cached
                assert result.usage.completion_tokens == 1

    run_async(main())


# Room


def test_others_give_way(saved_session: Path) -> None:
    with scripted("!", num_cells=30, **SMALL) as made:
        made.model.generate("something that fills it")
        context = Context.load(made.model, saved_session)
        assert context.session is not None
        assert context.session.num_cached == len(PROMPT + "there was") - 1
        assert context.generate(PROMPT + "there").usage.cached_tokens == len(PROMPT + "there") - 1


def test_running_streams_do_not_give_way(saved_session: Path) -> None:
    with scripted(echo, num_cells=30, **SMALL) as made:
        stream = made.model.generate_stream("0123456789", max_tokens=6, buffer_size=1)
        wait_until(lambda: made.engine.metrics().paused)
        context = within(Context.load, made.model, saved_session)
        assert context.session is not None
        assert context.session.num_cached == 2 * SMALL["max_saved"]  # of 24 in all, beside the 10 of the stream
        assert texts(stream) == "[01234"


def test_a_session_that_is_too_long_for_the_context(saved_session: Path) -> None:
    with scripted("!", num_cells=20) as made:
        refused(made, saved_session, "it has 25 tokens, but the context holds 20; load the model with a larger n_ctx")


def test_streams_go_on_undisturbed(session_path: Path, fresh_model: Scripted) -> None:
    with scripted(echo, **SMALL) as made, Context(made.model) as context:
        context.generate("a tale " * 30, max_tokens=2)
        streams = [made.model.generate_stream(f"stream {number}" * 9, max_tokens=60) for number in range(4)]
        for number in range(5):
            session = context.save(session_path)
            Context.load(made.model, session_path)
            assert session.num_cached == 211, number
        for number, stream in enumerate(streams):
            assert texts(stream) == f"[{f'stream {number}' * 9}]"[:60]


# Conversations


def test_a_conversation_comes_back_with_its_kv(session_path: Path) -> None:
    with scripted("well", chat_template=TEMPLATE) as made:
        conversation = ConversationManager(made.model, system_prompt="Hm.", max_messages=7)
        for question in ("Who?", "How?"):
            conversation.send(question).result()
        session = conversation.save(session_path)
        assert session.num_cached == len(session.tokens) - 1
        messages, text = conversation.get_messages(), conversation.to_json()
    with scripted("fine", chat_template=TEMPLATE) as made:
        for model in (made.model, Context(made.model), made.asynchronous):
            again = ConversationManager.load(model, session_path)
            assert again.get_messages() == messages
            assert again.to_json() == text
        fork = again.fork()
        reply = again.send("Why?").result()
        assert reply.usage.cached_tokens == session.num_cached
        assert fork.get_messages() == messages
        assert fork.send("When?").result().usage.cached_tokens >= session.num_cached
        assert again.get_messages()[-2]["content"] == "Why?"
        assert Context.load(made.model, session_path).session == session


def test_a_conversation_keeps_the_system_prompt_of_its_context(session_path: Path) -> None:
    with scripted("well", chat_template=TEMPLATE) as made:
        conversation = ConversationManager(Context(made.model, system_prompt="Be brief."))
        within(conversation.send("hello").result)
        conversation.save(session_path)
    with scripted("fine", chat_template=TEMPLATE) as made:
        again = ConversationManager.load(made.model, session_path)
        assert again.system_prompt == "Be brief."
        usage = within(again.send("and?").result).usage
        assert usage.cached_tokens >= len("<system>Be brief.<user>hello<assistant>well")
        other = ConversationManager.load(Context(made.model, system_prompt="Be long."), session_path)
        assert other.system_prompt is None, "the context's own"


def test_a_conversation_without_messages_and_one_without_a_model(session_path: Path, fresh_model: Scripted) -> None:
    session = ConversationManager(fresh_model.model).save(session_path)
    assert (session.tokens, session.num_cached) == ((), 0)
    assert ConversationManager.load(fresh_model.model, session_path).get_messages() == []
    with pytest.raises(InvalidRequestError, match="model"):
        ConversationManager().save(session_path)
    with pytest.raises(HeadraceError, match="model"):
        ConversationManager.load(None, session_path)  # pyright: ignore


def test_a_context_is_no_conversation(saved_session: Path, fresh_model: Scripted) -> None:
    with pytest.raises(InvalidRequestError, match="holds no conversation"):
        ConversationManager.load(fresh_model.model, saved_session)
    forged(saved_session, conversation='{"version": 1}')
    with pytest.raises(InvalidRequestError, match="max_messages"):
        ConversationManager.load(fresh_model.model, saved_session)
