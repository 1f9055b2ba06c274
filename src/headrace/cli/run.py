"""`headrace run`: generates text from a prompt, and writes it token by token."""

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
from headrace.cli.output import JsonOutput, TextOutput
from headrace.cli.shared_options import DraftOption, GPULayers, KVTypeOption, SpeculationOption
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
# Longer steps than the default prefill a long prompt twice as fast, and delay no other stream here; Ctrl-C waits for
# one step.
_STEP_TARGET_MS = 500
# Tokens that a chat template may add to a prompt.
_TEMPLATE = 2048
# The largest context that is sized to the prompt. Making one of 32,768 tokens takes longer than loading a small model.
_SHORT = 8192


def _value_or_file(value: str | None) -> str | None:
    """The value of an option; for @FILE, the content of the file."""
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
        str | None, typer.Argument(metavar="PROMPT", help="The prompt; if absent, standard input is read.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", help="Maximum number of tokens to generate.")
    ] = _DEFAULTS.max_tokens,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="Sampling temperature; 0 always takes the most likely token.")
    ] = _DEFAULTS.temperature,
    top_k: Annotated[int, typer.Option(help="Sample from the k most likely tokens; 0 is off.")] = _DEFAULTS.top_k,
    top_p: Annotated[
        float, typer.Option(help="Sample from the most likely tokens that together reach this probability; 1 is off.")
    ] = _DEFAULTS.top_p,
    min_p: Annotated[
        float, typer.Option(help="Leave out tokens less likely than this fraction of the most likely one; 0 is off.")
    ] = _DEFAULTS.min_p,
    seed: Annotated[
        int | None,
        typer.Option(help="Random seed; the same seed gives the same text. If absent, it is drawn at random."),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text; may be given several times.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    json_schema: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Write JSON that fits this schema; @FILE reads the schema from a file.",
            callback=_value_or_file,
        ),
    ] = None,
    regex: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Write text that matches this regular expression.")
    ] = None,
    grammar: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Write text that fits this Lark or GBNF grammar; @FILE reads the grammar from a file.",
            callback=_value_or_file,
        ),
    ] = None,
    thinking: Annotated[
        Literal["split", "hide", "raw"],
        typer.Option(help="Write the model's thinking to standard error (split), nowhere (hide), or as text (raw)."),
    ] = "split",
    thinking_budget: Annotated[int | None, typer.Option(help="End the thinking after this many tokens.")] = None,
    thinking_tags: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="OPEN CLOSE", help="Tags around the thinking, for models whose chat template does not show them."
        ),
    ] = None,
    speculation: SpeculationOption = None,
    timeout: Annotated[float, typer.Option(help="Milliseconds that the generation may take; 0 is no limit.")] = 0,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Write everything at the end instead of token by token.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Report counts and times on standard error.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Write JSON, one object per line: one for each token, one for the result.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt, without the model's chat template.")] = False,
    n_ctx: Annotated[
        int | None,
        typer.Option(
            help="Size of the context in tokens; if absent, enough for the prompt and --max-tokens. If that is more "
            "than 8192, it is as large as the model was trained with and memory holds."
        ),
    ] = None,
    kv_type: KVTypeOption = "f16",
    draft: DraftOption = None,
    threads: Annotated[
        int | None, typer.Option(help="Maximum number of compute threads; if absent, one per available core.")
    ] = None,
    gpu_layers: GPULayers = 0,
) -> None:
    """Generate text with a model, and write it token by token.

    Standard output carries the text and nothing else. The prompt is a user's message in the model's own chat template,
    unless --raw is given. A prompt from standard input loses its last line break. Ctrl-C stops the generation; the
    text so far stays.
    """
    if raw and system is not None:
        raise typer.BadParameter(
            "a system prompt needs the chat template, which --raw leaves out", param_hint="--system"
        )
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
            n_ctx = _context_size(text, system or "", max_tokens)
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
        with contextlib.suppress(typer.Exit, OSError):  # this error matters more than a reader that has left
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


def _context_size(text: str, system: str, max_tokens: int) -> int | None:
    """Tokens of context that are enough for one answer; None, for as large a context as possible, if that is many."""
    size = len(text.encode()) + len(system.encode()) + _TEMPLATE + max_tokens  # no token is shorter than a byte
    return size if size <= _SHORT else None


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

    # An exception that a signal handler raises in a callback from C is lost, so Ctrl-C is noted, and raised elsewhere.
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
        message = f"{error}; --raw continues the prompt without a chat template"
        raise InvalidRequestError(error.field, error.value, error.allowed, message) from None


@contextmanager
def _on_interrupt(act: Callable[[], None]) -> Generator[list[int]]:
    """Let the first Ctrl-C call `act` instead of raising KeyboardInterrupt; the yielded list gets an item then."""
    interrupts: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        act()

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _report(result: GenerationResult) -> None:
    usage, metrics = result.usage, result.metrics
    ttft = metrics.time_to_first_token_ms
    reason = result.finish_reason + (f" ({result.stop_sequence!r})" if result.stop_sequence is not None else "")
    say(f"prompt: {usage.prompt_tokens} tokens, {usage.cached_tokens} of them cached")
    thinking = f", {usage.thinking_tokens} of them thinking" if usage.thinking_tokens else ""
    say(f"completion: {usage.completion_tokens} tokens{thinking}, ended by: {reason}")
    say(f"time to first token: {'no token came' if ttft is None else f'{ttft:.0f} ms'}")
    guesses = (
        f", {metrics.accepted_tokens} of {metrics.drafted_tokens} guessed tokens right"
        if metrics.drafted_tokens
        else ""
    )
    say(f"speed: {metrics.tokens_per_second:.1f} tokens/s{guesses}")
    say(f"total: {metrics.latency_ms:.0f} ms, of which paused for the reader: {metrics.paused_ms:.0f} ms")
