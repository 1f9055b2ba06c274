"""The npm package: what is in it, and that what is in it works where it was installed."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from clients.serving import Server

from javascript.conftest import PACKAGE, node

TSC = PACKAGE / "node_modules" / ".bin" / "tsc"
COMPILER_OPTIONS = {
    "target": "ES2023",
    "lib": ["ES2023", "DOM", "DOM.Iterable"],
    "module": "nodenext",
    "jsx": "react-jsx",
    "types": ["node"],
    "strict": True,
    "allowJs": True,
    "outDir": "out",
    "rootDir": ".",
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r'<script type="module">\n(.*?)</script>', re.DOTALL)
IMPORT = re.compile(r"^import .*\bTextGeneration\b", re.MULTILINE)
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it would be published."""
    folder = tmp_path_factory.mktemp("packed")
    node("npm", "pack", "--pack-destination", str(folder))
    (package,) = folder.iterdir()
    return package


@pytest.fixture(scope="module")
def installed(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has the package, and nothing else but React, the types, and a document to render into."""
    project = tmp_path_factory.mktemp("project")
    (project / "package.json").write_text('{"private": true, "type": "module"}')
    node("npm", "install", "--no-save", "--offline", "--no-audit", "--no-fund", str(packed), cwd=project)
    modules = project / "node_modules"
    (modules / "@types").mkdir()
    for name in ("react", "react-dom", "jsdom", "@types/node", "@types/react", "@types/react-dom", "@types/jsdom"):
        (modules / name).symlink_to(PACKAGE / "node_modules" / name)
    return project


def compile_in(project: Path) -> None:
    """Compile what is in a project's folder test/ to out/."""
    settings = {"compilerOptions": {**COMPILER_OPTIONS, "skipLibCheck": True}, "include": ["test"]}
    (project / "tsconfig.json").write_text(json.dumps(settings))
    node(str(TSC), "--project", ".", cwd=project)


def test_what_is_in_it(packed: Path) -> None:
    with tarfile.open(packed) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
        types = archive.extractfile("package/types/src/client.d.ts")
        assert types is not None
        assert "declare const TextGeneration" in types.read().decode()
    modules = {"headrace.js", "react.js", "types/headrace.d.ts", "types/react.d.ts"}
    modules |= {f"types/src/{path.stem}.d.ts" for path in (PACKAGE / "src").iterdir()}
    assert names == {"LICENSE", "README.md", "package.json", *modules}


def test_it_brings_nothing_along(installed: Path) -> None:
    manifest = json.loads((installed / "node_modules" / "headrace" / "package.json").read_text())
    assert "dependencies" not in manifest
    assert manifest["license"] == "Apache-2.0"
    names = node("node", "-e", "import('headrace').then((all) => console.log(Object.keys(all).join()))", cwd=installed)
    assert {"TextGeneration", "TextGenerationClient", "createThrottledUpdater"} <= set(names.strip().split(","))


def test_versions_agree() -> None:
    import headrace

    assert json.loads((PACKAGE / "package.json").read_text())["version"] == headrace.__version__


def test_its_types_need_no_others(installed: Path, tmp_path: Path) -> None:
    """Without Node's and React's types, without leniency, in a browser's program."""
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    (tmp_path / "node_modules").mkdir()
    shutil.copytree(installed / "node_modules" / "headrace", tmp_path / "node_modules" / "headrace")
    (tmp_path / "page.ts").write_text(
        'import { TextGeneration } from "headrace";\n'
        'import type { LLMGenerationOptions, LLMGenerationResult, LLMStreamingResult, StreamToken } from "headrace";\n'
        "const options: LLMGenerationOptions = { maxTokens: 5 };\n"
        'const answer: LLMStreamingResult = await TextGeneration.generateStream("a", options);\n'
        "for await (const token of answer.streamEvents) { const one: StreamToken = token; one.text.length; }\n"
        "const result: LLMGenerationResult = await answer.result;\n"
        "export const speed: string = result.tokensPerSecond.toFixed(1);\n"
    )
    options = {**COMPILER_OPTIONS, "types": [], "noEmit": True, "exactOptionalPropertyTypes": True}
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["page.ts"]}))
    node(str(TSC), "--project", ".", cwd=tmp_path)


def test_each_way_to_use_it(installed: Path, parrot_url: str) -> None:
    test = installed / "test"
    shutil.copytree(PACKAGE / "test" / "usage", test / "usage")
    shutil.copy(PACKAGE / "test" / "dom.js", test)
    compile_in(installed)
    said = node(
        "node", "--test", "--test-reporter=tap", "out/test/usage/usage.test.js", cwd=installed, PARROT_URL=parrot_url
    )
    assert re.search(r"^# pass [1-9]", said, re.MULTILINE), said
    shutil.rmtree(test)


def test_the_readme(installed: Path, real: Server) -> None:
    """Every example runs as it is written, against a real model, apart from where that is."""
    blocks = BLOCK.findall((PACKAGE / "README.md").read_text())
    assert {kind for kind, _ in blocks} == {"html", "js", "jsx"}, "an example of another kind would not be run"
    test = installed / "test"
    shutil.copytree(PACKAGE / "test" / "readme", test / "readme")
    shutil.copy(PACKAGE / "test" / "dom.js", test)
    for number, (kind, block) in enumerate(blocks):
        source = block
        if kind == "html":
            (source,) = SCRIPT.findall(block)
            source = source.replace(f"{ADDRESS}/headrace.js", "headrace")
        elif "TextGeneration." in block and not IMPORT.search(block):
            source = f'import {{ TextGeneration }} from "headrace";\n{block}'  # the first example has shown how
        suffix = "jsx" if kind == "jsx" else "js"
        file = test / "readme" / f"example{number:02}.{suffix}"
        file.write_text("// @ts-nocheck\n" + source.replace(ADDRESS, real.url))
    compile_in(installed)
    said = node("node", "out/test/readme/main.js", cwd=installed, REAL_URL=real.url)
    assert said.count("---") == len(blocks)
    assert "tok/s, the first after" in said
    assert said.count("true\n") == 2
    assert "temperature temperature is -1" in said
    assert re.search(r"^\d+ tokens$", said, re.MULTILINE), said
    assert re.search(r"^The page says: \s*\S", said, re.MULTILINE), said
    shutil.rmtree(test)
