"""`headrace run`: a prompt in, text out, token by token."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headrace.cli.models import complete_model
from headrace.cli.options import DraftOption, GPULayers, KVTypeOption, SpeculationOption
from headrace.cli.output import JsonOutput, TextOutput
from headrace.cli.terminal import Waiting, is_terminal, say
from headrace.llama.kv_types import KVType
from headrace.values.config import StreamConfig, speculation_of
from headrace.values.errors import GenerationError, HeadraceError, InvalidRequestError
from headrace.values.results import GenerationResult

if TYPE_CHECKING:
    from headrace.api.model import Model
    from headrace.api.stream import TokenStream

__all__ = ["run"]

_DEFAULTS = StreamConfig()
_INTERRUPTED = 130
# Nobody else waits for the steps of this engine, and long ones read a long prompt twice as fast; Ctrl-C waits for one.
_STEP_TARGET_MS = 500
# Tokens that a chat template may write around a prompt.
_TEMPLATE = 2048
# Where so many tokens are enough, the context is not made any larger: 32,768 take longer than to load a small model.
_SHORT = 8192


def _read(value: str | None) -> str | None:
    """The value of an option, or what is in the file that it names after an @."""
    if value is None or not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{value[1:]} cannot be read: {error}") from error


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name (see headrace models), or a path to a .gguf file.",
            autocompletion=complete_model,
        ),
    ],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to answer; without it, standard input is read.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", help="Tokens to generate at most.")
    ] = _DEFAULTS.max_tokens,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="0 always takes the most likely token.")
    ] = _DEFAULTS.temperature,
    top_k: Annotated[int, typer.Option(help="Choose among the k most likely tokens; 0 is off.")] = _DEFAULTS.top_k,
    top_p: Annotated[
        float, typer.Option(help="Choose among the most likely tokens that reach this probability; 1 is off.")
    ] = _DEFAULTS.top_p,
    min_p: Annotated[
        float, typer.Option(help="Leave out tokens less likely than this share of the most likely one; 0 is off.")
    ] = _DEFAULTS.min_p,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same text; if absent, it is drawn at random.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Text to stop before; may be given several times.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    json_schema: Annotated[
        str | None,
        typer.Option(
            metavar="JSON", help="Write JSON that fits this schema; @FILE reads it from a file.", callback=_read
        ),
    ] = None,
    regex: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Write what matches this regular expression.")
    ] = None,
    grammar: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Write what fits this Lark or GBNF grammar; @FILE reads one.", callback=_read
        ),
    ] = None,
    thinking: Annotated[
        Literal["split", "hide", "raw"],
        typer.Option(help="Write the model's thought to standard error (split), nowhere (hide), or as text (raw)."),
    ] = "split",
    thinking_budget: Annotated[int | None, typer.Option(help="Close the thought after so many tokens.")] = None,
    thinking_tags: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="OPEN CLOSE", help="What opens and what closes a thought, where the chat template does not show it."
        ),
    ] = None,
    speculation: SpeculationOption = None,
    timeout: Annotated[float, typer.Option(help="Milliseconds the generation may take; 0 is no limit.")] = 0,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Write all at the end instead of as it comes.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Report counts and times on standard error.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Write an object for each token, and one for the result, one per line.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt, without the model's chat template.")] = False,
    n_ctx: Annotated[
        int | None,
        typer.Option(
            help="Tokens of context, prompt included; if absent, enough for it and --max-tokens, or all that the model "
            "was trained for and memory holds."
        ),
    ] = None,
    kv_type: KVTypeOption = "f16",
    draft: DraftOption = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads that compute at most; if absent, one per available core.")
    ] = None,
    gpu_layers: GPULayers = 0,
) -> None:
    """Generate text with a model, and write it as it comes.

    Standard output carries the text and nothing else. The prompt is a user's message in the model's own chat template
    unless --raw is given. From standard input, a last line break does not belong to it. Ctrl-C stops the generation
    and keeps what is there.
    """
    if raw and system is not None:
        raise typer.BadParameter("it needs the chat template, which --raw leaves out", param_hint="--system")
    output = JsonOutput(at_end=no_stream) if json else TextOutput(at_end=no_stream, is_terminal=is_terminal(sys.stdout))
    try:
        config = StreamConfig(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            stop_sequences=tuple(stop or ()),
            json_schema=json_schema,
            regex=regex,
            grammar=grammar,
            thinking=thinking,
            thinking_budget=thinking_budget,
            thinking_tags=thinking_tags,
            speculation=speculation_of(speculation),
            timeout_ms=timeout,
        )
        text = _checked("prompt", _from_stdin() if prompt is None else prompt)
        if system is not None:
            _checked("system_prompt", system)
        if n_ctx is None:
            n_ctx = _enough(text, system or "", max_tokens)
        with _load(model, n_ctx, kv_type, draft, threads, gpu_layers, config) as loaded:
            stream = loaded.generate_stream(text) if raw else _chat(loaded, text, system)
            waiting_for = "generating" if no_stream else f"reading the prompt ({stream.usage.prompt_tokens} tokens)"
            with stream, _on_interrupt(stream.cancel) as interrupts, Waiting(waiting_for) as waiting:
                for token in stream:
                    if not no_stream:
                        waiting.stop()
                    output.token(token)
            result = stream.result()
        output.result(result)
    except HeadraceError as error:
        with contextlib.suppress(typer.Exit, OSError):  # the error matters more than that nobody reads
            output.error(error)
        if verbose and isinstance(error, GenerationError) and error.partial is not None:
            _report(error.partial)
        raise
    if verbose:
        _report(result)
    if interrupts:
        raise typer.Exit(_INTERRUPTED)


def _from_stdin() -> str:
    if is_terminal(sys.stdin):
        say("headrace: reading the prompt from the terminal; Ctrl-D ends it")
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()  # pyright: ignore[reportUnnecessaryComparison]
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            "prompt", data[error.start : error.end], f"UTF-8; standard input has this at byte {error.start}"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def _checked(field: str, text: str) -> str:
    from headrace.chat.prompts import check_text

    check_text(field, text)
    return text


def _enough(text: str, system: str, max_tokens: int) -> int | None:
    """Tokens of context for one answer; None, for as many as can be had, where that may be many."""
    enough = len(text.encode()) + len(system.encode()) + _TEMPLATE + max_tokens  # no token is shorter than a byte
    return enough if enough <= _SHORT else None


def _load(
    ref: str,
    n_ctx: int | None,
    kv_type: KVType,
    draft: str | None,
    threads: int | None,
    gpu_layers: int,
    config: StreamConfig,
) -> Model:
    from headrace.api.model import Model

    # An exception in a callback from C is lost, so Ctrl-C is only raised where it is not.
    with Waiting(f"loading {ref}", measured=True) as waiting, _on_interrupt(lambda: None) as interrupts:

        def progress(fraction: float) -> None:
            if interrupts:
                raise KeyboardInterrupt
            waiting.update(fraction)

        model = Model.load(
            ref,
            n_ctx=n_ctx,
            kv_type=kv_type,
            draft=draft,
            n_threads=threads,
            n_gpu_layers=gpu_layers,
            max_streams=1,
            step_target_ms=_STEP_TARGET_MS,
            config=config,
            progress=progress,
        )
        if interrupts:
            model.close()
            raise KeyboardInterrupt
    return model


def _chat(model: Model, prompt: str, system: str | None) -> TokenStream:
    try:
        return model.chat_stream([{"role": "user", "content": prompt}], system_prompt=system)
    except InvalidRequestError as error:
        if error.field not in ("messages", "chat_template"):
            raise
        message = f"{error}; --raw does without the chat template"
        raise InvalidRequestError(error.field, error.value, error.allowed, message) from None


@contextmanager
def _on_interrupt(act: Callable[[], None]) -> Generator[list[int]]:
    """Have the first Ctrl-C call `act` instead of raising KeyboardInterrupt, and noted in the list that this gives."""
    interrupts: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        act()

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # a shell has its background jobs ignore it
        signal.signal(signal.SIGINT, handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _report(result: GenerationResult) -> None:
    usage, metrics = result.usage, result.metrics
    first = metrics.time_to_first_token_ms
    why = result.finish_reason + (f" ({result.stop_sequence!r})" if result.stop_sequence is not None else "")
    say(f"prompt: {usage.prompt_tokens} tokens, {usage.cached_tokens} of them cached")
    thought = f", {usage.thinking_tokens} of them thinking" if usage.thinking_tokens else ""
    say(f"completion: {usage.completion_tokens} tokens{thought}, ended by: {why}")
    say(f"time to first token: {'none came' if first is None else f'{first:.0f} ms'}")
    guessed = f", {metrics.accepted_tokens} of {metrics.drafted_tokens} guesses right" if metrics.drafted_tokens else ""
    say(f"speed: {metrics.tokens_per_second:.1f} tokens/s{guessed}")
    say(f"total: {metrics.latency_ms:.0f} ms, of them paused for the reader: {metrics.paused_ms:.0f} ms")
