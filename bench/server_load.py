"""The load generator: `Target` sends streamed completions over bare sockets, `Answer` times and later parses the bytes.

It shares the cores with the measured servers. So while a stream runs, it only records which bytes arrived when.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import json
import socket
import statistics
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

__all__ = ["Answer", "Reading", "Target", "decode_speed", "speed", "ttft", "worst_gap"]

# Sent to every server that accepts them. Without these, a stream may end early, and its tokens are only estimated.
EXTRAS = {"ignore_eos": True, "stream_options": {"include_usage": True}}


@dataclass
class Target:
    """A server.

    Args:
        name: its name in the table.
        url: its address, with or without a final /v1.
        model: its name for the model.
        extras: the fields of EXTRAS that it accepts.
    """

    name: str
    url: str
    model: str = ""
    extras: dict[str, Any] = field(default_factory=lambda: dict(EXTRAS))

    @cached_property
    def place(self) -> urllib.parse.SplitResult:
        """The parts of the URL without /v1."""
        place = urllib.parse.urlsplit(self.url.rstrip("/").removesuffix("/v1"))
        if place.scheme != "http" or place.hostname is None:
            raise SystemExit(f"{self.name} is {self.url!r}; allowed: http://HOST:PORT")
        return place

    async def ask(self, prompt: str, max_tokens: int, *, is_read: bool = True) -> Answer:
        """Send a greedy, streamed completion on a new connection.

        Args:
            prompt: the text to continue.
            max_tokens: how many tokens to generate.
            is_read: whether to read the answer. If not, a tiny receive buffer makes the server's socket fill up.
        """
        fields = {"model": self.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
        body = json.dumps({**fields, **self.extras}).encode()
        head = (
            f"POST {self.place.path}/v1/completions HTTP/1.1\r\nHost: {self.place.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        answer = Answer(self.name, head.encode() + body, max_tokens)
        loop = asyncio.get_running_loop()
        address = (self.place.hostname, self.place.port or 80)
        if is_read:
            await loop.create_connection(lambda: answer, *address)
        else:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            await loop.sock_connect(connection, address)
            transport, _ = await loop.create_connection(lambda: answer, sock=connection)
            transport.pause_reading()
        return answer

    async def metrics(self) -> dict[str, float]:
        """Return headrace's /metrics by name, added up over all models."""
        url = self.place._replace(path=f"{self.place.path}/metrics").geturl()
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
        values: dict[str, float] = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                values[name] = values.get(name, 0.0) + float(value)
        return values

    async def ask_all(self, prompts: Sequence[str], max_tokens: int) -> list[Answer]:
        """Send all prompts at once."""
        return list(await asyncio.gather(*(self.ask(prompt, max_tokens) for prompt in prompts)))

    async def read_all(self, prompts: Sequence[str], max_tokens: int) -> list[Reading]:
        """Send all prompts at once, and wait for the ends of the answers."""
        return [await answer.reading() for answer in await self.ask_all(prompts, max_tokens)]


@dataclass
class Reading:
    """The times, tokens and text of a stream, as its reader saw them.

    Args:
        sent: when the request was sent.
        times: when each chunk with text arrived.
        num_tokens: how many tokens the stream had.
        text: the whole text.
    """

    sent: float
    times: list[float]
    num_tokens: int
    text: str = ""


class Answer(asyncio.Protocol):
    """A request that is running, and the bytes that came back so far.

    Args:
        name: the server's name, for errors.
        request: the bytes to send.
        max_tokens: the request's `max_tokens`.
    """

    def __init__(self, name: str, request: bytes, max_tokens: int) -> None:
        self.sent = time.perf_counter()
        self.num_events = 0  # approximate, since a text may contain "data:", too
        self._name = name
        self._request = request
        self._max_tokens = max_tokens
        self._pieces: list[tuple[float, bytes]] = []
        self._is_over = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class is not a subclass
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._pieces.append((time.perf_counter(), data))
        self.num_events += data.count(b"data:")

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over.set()

    # Called by the workloads.

    @property
    def is_over(self) -> bool:
        """Whether the connection is closed."""
        return self._is_over.is_set()

    def leave(self) -> None:
        """Close the connection at once."""
        assert self._transport is not None
        self._transport.abort()

    async def reading(self) -> Reading:
        """Wait for the end, and parse the whole answer.

        Raises:
            RuntimeError: the server did not answer with a stream of tokens.
        """
        await self._is_over.wait()
        reading = Reading(self.sent, [], 0)
        texts: list[str] = []
        num_tokens = finish_reason = None
        for at, data in self._data():
            if data == b"[DONE]":
                break
            event = json.loads(data)
            if "choices" not in event:
                raise RuntimeError(f"{self._name} sent {data[:300]!r}")
            num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
            for choice in event["choices"]:
                finish_reason = choice.get("finish_reason") or finish_reason
                if choice.get("text"):
                    reading.times.append(at)
                    texts.append(choice["text"])
        if not reading.times:
            raise RuntimeError(f"{self._name} sent no text")
        if num_tokens is None:  # no usage; the number of chunks is a lower bound, since a chunk may hold several tokens
            num_tokens = self._max_tokens if finish_reason == "length" else len(texts)
        reading.num_tokens = num_tokens
        reading.text = "".join(texts)
        return reading

    def _data(self) -> Iterator[tuple[float, bytes]]:
        """Yield the data of each event with the time at which it was complete."""
        rest = b""
        for at, piece in self._body():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    yield at, line[5:].strip()

    def _body(self) -> Iterator[tuple[float, bytes]]:
        raw = b"".join(piece for _, piece in self._pieces)
        ends = list(itertools.accumulate(len(piece) for _, piece in self._pieces))
        head, blank, _ = raw.partition(b"\r\n\r\n")
        status = head.split(b"\r\n")[0].decode(errors="replace")
        if " 200 " not in f"{status} ":
            raise RuntimeError(f"{self._name} answered {status or 'nothing'}: {raw[len(head) :].strip()[:300]!r}")
        at = len(head) + len(blank)
        if b"\r\ntransfer-encoding: chunked" not in head.lower():
            for i, end in enumerate(ends):
                if end > at:
                    yield self._pieces[i][0], raw[at:end]
                    at = end
            return
        while (line_end := raw.find(b"\r\n", at)) >= 0:
            size = int(raw[at:line_end].partition(b";")[0], 16)
            at = line_end + 2
            if size == 0 or at + size > len(raw):
                return
            yield self._pieces[bisect.bisect_left(ends, at + size)][0], raw[at : at + size]
            at += size + 2


def speed(readings: Sequence[Reading]) -> float:
    """Return the tokens per second of all streams together, from the first request to the last token."""
    seconds = max(one.times[-1] for one in readings) - min(one.sent for one in readings)
    return sum(one.num_tokens for one in readings) / seconds


def decode_speed(readings: Sequence[Reading]) -> float | None:
    """Return the tokens per second of all streams together while all ran; None if they never all ran."""
    begin = max(one.times[0] for one in readings)
    end = min(one.times[-1] for one in readings)
    if end <= begin:
        return None
    return sum(begin < at <= end for one in readings for at in one.times) / (end - begin)


def worst_gap(readings: Sequence[Reading]) -> float | None:
    """Return the longest time between two tokens of a stream; None if no stream had two tokens."""
    gaps = [after - before for one in readings for before, after in itertools.pairwise(one.times)]
    return max(gaps, default=None)


def ttft(readings: Sequence[Reading]) -> float:
    """Return the median of the times to the first token, in seconds."""
    return statistics.median(one.times[0] - one.sent for one in readings)
