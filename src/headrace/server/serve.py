"""`serve`: the process of `headrace serve`. It listens, loads models, handles signals, drains and exits."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn

from headrace.api.model import AsyncModel
from headrace.server.app import app_of
from headrace.server.http.protocol import Connection, enlarge_send_buffer
from headrace.server.serving.logs import announce
from headrace.server.serving.service import Service
from headrace.server.serving.settings import Settings, split_model, unknown_variables
from headrace.server.websocket.protocol import WebSocketConnection
from headrace.store import resolve
from headrace.values.errors import InvalidRequestError

__all__ = ["Load", "Server", "serve"]

# Loads a model. Calls its argument with the loaded fraction, 0 to 1, while it loads.
Load = Callable[[Callable[[float], None]], Awaitable[AsyncModel]]

_logger = logging.getLogger("headrace.server")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds after the shutdown timeout: for writing the last bytes to clients, and until the process is killed.
_FLUSH_TIME = 0.6
_KILL_TIME = 0.9
# Connections that may wait to be accepted.
_BACKLOG = 2048
# Seconds for which an idle connection is kept; longer than proxies keep theirs, so that none closes under a request.
_KEEP_ALIVE = 75
# Bytes of a WebSocket message above which the connection is closed. Smaller ones over 1 MiB are answered with an error.
_MAX_MESSAGE = 2 * 1024 * 1024
# Python's thread switch interval, in seconds. With the default, 5 ms, a prompt that is being made in another thread
# doubles the time of every step, and the event loop answers 20 ms late. With this value, neither is measurable.
_SWITCH_INTERVAL = 0.0005


def serve(settings: Settings) -> None:
    """Load the models and serve them, until a signal says to stop.

    Raises:
        InvalidRequestError: no model is given, or two have the same name.
        ModelNotFoundError, ModelLoadError: a model cannot be found or loaded.
        OSError: the server cannot listen on the address.
    """
    paths = _find_models(settings.models)
    with contextlib.closing(_listen(settings.host, settings.port)) as listener, _tuned():
        _warn(settings, listener)
        server = Server(settings, {name: partial(_load, path, settings) for name, path in paths.items()}, listener)
        with server.handling_signals():
            server.run([listener])
        if server.failure is not None:
            raise server.failure


class _Stopped(Exception):
    """Ends the loading of a model when the server is told to stop."""


class Server(uvicorn.Server):
    """uvicorn's server, which also loads the models while it listens, drains, and closes the models.

    Args:
        settings: the server's settings.
        loads: functions that load the models, by name.
        listener: the socket to listen on.

    Attributes:
        failure: the error that kept a model from being loaded.
    """

    def __init__(self, settings: Settings, loads: Mapping[str, Load], listener: socket.socket) -> None:
        self.failure: Exception | None = None
        self.service = Service(settings)
        for name in loads:
            self.service.expect(name)
        self._settings = settings
        self._loads = loads
        self._url = _url(settings.host, listener)
        self._models: list[AsyncModel] = []
        self._is_signalled = False
        self._is_told_to_stop = False
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing_time = 0.0  # on the loop's clock; connections that are still open then are cut
        self._kill_timer: threading.Timer | None = None
        super().__init__(_uvicorn_config(self.service))

    @contextlib.contextmanager
    def handling_signals(self) -> Generator[None]:
        """In a `with`, the first signal stops the server, and the second one kills the process."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # shells make background jobs ignore Ctrl-C
                signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._is_signalled:
            os._exit(128 + number)
        self._is_signalled = True
        self._kill_in(self._settings.shutdown_timeout + _KILL_TIME)  # even if the event loop hangs
        self.stop()

    def stop(self) -> None:
        """Drain and stop. May be called from any thread, and from a signal handler."""
        self._is_told_to_stop = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    # Called by uvicorn.

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Do nothing. uvicorn's own signal handlers would raise the signals again at the end."""
        return contextlib.nullcontext()

    async def main_loop(self) -> None:
        """Load the models, serve until the stop, drain."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_log_failure)
        if self._is_told_to_stop:
            self._stopping.set()
        loading = asyncio.ensure_future(self._load())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and loading.exception() is None:
            await stopping
        for task in (loading, stopping):
            task.cancel()
        outcome, _ = await asyncio.gather(loading, stopping, return_exceptions=True)
        if isinstance(outcome, Exception) and not self._is_told_to_stop:
            self.failure = outcome
        await self._drain(0 if self.failure is not None else self._settings.shutdown_timeout)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the connections, once their write buffers are empty, and the models."""
        assert self._loop is not None
        for server in self.servers:
            server.close()
        state = self.server_state
        for connection in list(state.connections):
            enlarge_send_buffer(connection.transport)
            try:
                connection.shutdown()
            except Exception:  # a WebSocket that is closing already
                connection.transport.abort()
        while (state.connections or state.tasks) and self._loop.time() < self._closing_time:
            await asyncio.sleep(0.01)
        for connection in list(state.connections):
            connection.transport.abort()
        for model in self._models:
            await model.close()
        announce("stopped", "stopped")

    # Loading and draining.

    async def _load(self) -> None:
        names = list(self._loads)
        announce("listening", f"listening on {self._url}, loading {', '.join(names)}", url=self._url, models=names)
        for name, load in self._loads.items():
            model = await load(self._check_wanted)
            self._models.append(model)
            self.service.add(name, model)
        announce("ready", f"serving {', '.join(names)} on {self._url}", url=self._url, models=names)

    def _check_wanted(self, _fraction: float) -> None:
        if self._is_told_to_stop:
            raise _Stopped

    async def _drain(self, timeout: float) -> None:
        """Wait for the running streams to end, and cancel those left after `timeout` seconds."""
        assert self._loop is not None
        num_requests = len(self.service.live)
        if num_requests:
            waiting = (
                f"waiting up to {timeout:.15g} s for running requests ({num_requests}); "
                "a second signal ends the process at once"
            )
            announce("draining", waiting, requests=num_requests, timeout=timeout)
        self._kill_in(timeout + _KILL_TIME)
        draining = asyncio.ensure_future(self.service.drain(timeout))
        deadline = self._loop.time() + timeout
        await asyncio.wait((draining,), timeout=timeout)
        while draining.done() and self._is_answering and self._loop.time() < deadline:
            await asyncio.sleep(0.01)  # all tokens are generated, but not yet sent
        self._closing_time = self._loop.time() + _FLUSH_TIME
        if draining.done():
            self._kill_in(_KILL_TIME)
        else:
            # The streams end now. Larger buffers let their last events out, even to clients that do not read.
            for connection in list(self.server_state.connections):
                enlarge_send_buffer(connection.transport)
            await asyncio.wait((draining,), timeout=_FLUSH_TIME)
        draining.cancel()

    @property
    def _is_answering(self) -> bool:
        connections = self.server_state.connections
        return any(isinstance(connection, Connection) and connection.is_answering for connection in connections)

    def _kill_in(self, seconds: float) -> None:
        """After a signal, kill the process in so many seconds, even if it hangs, for example in a load."""
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if self._is_signalled:
            self._kill_timer = threading.Timer(seconds, os._exit, (0,))
            self._kill_timer.daemon = True
            self._kill_timer.start()


def _uvicorn_config(service: Service) -> uvicorn.Config:
    stall_timeout = service.settings.stall_timeout_ms / 1000
    return uvicorn.Config(
        app_of(service),
        access_log=False,
        backlog=_BACKLOG,
        date_header=False,
        http=cast("type[asyncio.Protocol]", partial(Connection, stall_timeout=stall_timeout)),
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        ws=WebSocketConnection if service.settings.websocket else "none",
        ws_max_size=_MAX_MESSAGE,
        ws_per_message_deflate=False,
        ws_ping_timeout=stall_timeout or None,  # a client that does not read sends no pongs either
    )


def _find_models(models: Sequence[str]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for model in models:
        name, ref = split_model(model)
        found = resolve(ref)
        name = found.name if name is None else name
        if name in paths:
            allowed = "a different name for each model, as in other-name=PATH"
            raise InvalidRequestError("models", name, allowed, f"two models have the name {name}; allowed: {allowed}")
        paths[name] = found.path
    if not paths:
        allowed = "one model or more, as in: headrace serve smollm2"
        raise InvalidRequestError("models", models, allowed, f"there is no model to serve; allowed: {allowed}")
    return paths


async def _load(path: Path, settings: Settings, progress: Callable[[float], None]) -> AsyncModel:
    return await AsyncModel.load(
        path,
        n_ctx=settings.n_ctx,
        kv_type=settings.kv_type,
        prefix_cache_mb=settings.prefix_cache_mb,
        draft=settings.draft,
        n_threads=settings.threads,
        n_gpu_layers=settings.gpu_layers,
        max_streams=settings.max_streams,
        max_queue=settings.max_queue,
        progress=progress,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(found, key=lambda found_address: found_address[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            listener.bind(address)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        message = f"cannot listen on {host}, port {port}: {error.strerror}; choose others with --host and --port"
        raise OSError(error.errno, message) from error
    return listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _warn(settings: Settings, listener: socket.socket) -> None:
    """Warn of settings that are probably mistakes."""
    address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    if not address.is_loopback and not settings.api_keys:
        said = f"WARNING: everybody who can reach {settings.host} can use this server; --api-key-file sets keys"
        announce("unprotected", said, level=logging.WARNING, host=settings.host)
    for name, meant in unknown_variables().items():
        said = f"WARNING: the variable {name} is unknown" + (f"; did you mean {meant}?" if meant else "")
        announce("unknown_variable", said, level=logging.WARNING, name=name, meant=meant)


@contextlib.contextmanager
def _tuned() -> Generator[None]:
    """In a `with`, this process may have as many open files as allowed, and switches threads often."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _log_failure(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    # The context's other parts are left out: the repr of a task may quote an exception, and so a prompt.
    _logger.error("unexpected: %s", context.get("message"), exc_info=context.get("exception"))
