"""The bench of the server: its workloads on a scripted server, its peers' commands, its drawing; never a figure."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import urllib.request
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from server.harness import serving
from server.live import live

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import peers
import plot
import server_workloads
from server_load import Target
from server_process import free_port, started
from server_workloads import SWEEP, WORKLOADS, Prompts, Workload

BENCH = Path(__file__).parents[2] / "bench"
ENDLESS = [98] * 4000
SVG = "{http://www.w3.org/2000/svg}"
COUNTS = (1, 2, 4, 8, 16)


@pytest.fixture(scope="module")
def bench_server() -> Any:
    """bench/server.py, whose name the package of these tests has, too."""
    spec = importlib.util.spec_from_file_location("bench_server", BENCH / "server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(workload: Workload) -> dict[str, Any]:
    """The values of a workload on a scripted server, by name; in the end nothing may be left on it."""
    with serving(ENDLESS, num_cells=60_000) as server, live(server.app) as port:
        target = Target("headrace", f"http://127.0.0.1:{port}", model="scripted")
        values = asyncio.run(workload.run(target, Prompts("seed")))
    return {metric.name: value for metric, value in values.items()}


@pytest.mark.parametrize("workload", SWEEP[:3], ids=lambda workload: workload.title)
def test_a_point_of_the_sweep_has_a_speed_and_a_gap(workload: Workload) -> None:
    values = measured(workload)
    count = workload.title.split()[0]
    assert set(values) == {f"tok/s, {count} at once", f"worst gap, {count} at once"}
    fast, gap = values.values()
    assert fast > 0
    # A scripted server may have sent all of it before anybody read: then there was no gap.
    assert gap is None or 0 <= gap < int(count) * server_workloads.TOKENS / fast


def test_a_reader_that_does_not_read_is_compared_with_one_that_does() -> None:
    values = measured(WORKLOADS["slow-reader"])
    read, unread, ratio = values.values()
    assert ratio is None or ratio == pytest.approx(unread / read)


def test_abandoned_streams_are_counted_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_workloads, "ABANDONED", 40)
    monkeypatch.setattr(server_workloads, "ABANDONED_BEFORE", 20)
    values = measured(server_workloads.ALONE["abandoned-often"])
    assert values["streams"] <= 40, "who leaves before the prompt was made has started none"
    assert values["streams"] >= 20
    assert values["resident before"] > 1
    assert values["KV in use afterwards"] == 0


# The command line and the peers.


def test_the_names_of_peers_and_urls_are_taken(bench_server: Any) -> None:
    assert bench_server.parse(["all", "mine=http://127.0.0.1:1"]).peers == [*peers.PEERS, "mine=http://127.0.0.1:1"]
    assert bench_server.parse(["tuned"]).peers == ["tuned"]
    assert bench_server.parse(["--only", "sweep", "--svg", "x.svg"]).svg == Path("x.svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["else"], "a peer is 'else'; allowed: llama-server, tuned, example, packaged, all, or NAME=http://"),
        (["headrace=http://127.0.0.1:1"], "another name than headrace"),
        (["--only", "nine"], "--only is nine; allowed: one, four, eight"),
        (["--only", "one", "--svg", "x.svg"], "--svg draws the sweep"),
        (["--rounds", "0"], "--rounds is 0; allowed: at least 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    bench_server: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        bench_server.parse(arguments)
    assert message in " ".join(capsys.readouterr().err.split())


def test_every_peer_is_started_with_the_model_and_its_port(tmp_path: Path) -> None:
    setup = peers.Setup(tmp_path, tmp_path / "model.gguf", 8, tmp_path)
    for name, (make, ready) in peers.PEERS.items():
        command = [str(part) for part in make(setup, 4711)]
        told = " ".join([*command, *(path.read_text() for path in tmp_path.glob("*.json"))])
        assert str(setup.model) in told, name
        assert "4711" in told, name
        assert ready.startswith("/")
    tuned = " ".join(map(str, peers.PEERS["tuned"][0](setup, 1)))
    assert "-np 8 -kvu" in tuned
    assert "-b 64 -ub 64" in tuned


def test_a_process_is_waited_for_and_stopped() -> None:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(BENCH)]
    with started("it", command, port, "/README.md") as url, urllib.request.urlopen(url, timeout=10) as response:
        assert response.status == 200
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=10)


def test_a_process_that_ends_says_why() -> None:
    with (
        pytest.raises(SystemExit, match="it is not ready: no such model"),
        started("it", [sys.executable, "-c", "raise SystemExit('no such model')"], free_port(), "/"),
    ):
        pass


# The drawing.


def report(**medians: tuple[dict[int, float | None], dict[int, float | None]]) -> dict[str, Any]:
    """What bench/server.py reports of a sweep: for each server its speeds and its gaps."""
    metrics: dict[str, Any] = {}
    for index, kind in enumerate(("tok/s", "worst gap")):
        for count in COUNTS:
            values = {name: {"median": lines[index].get(count)} for name, lines in medians.items()}
            metrics[f"{kind}, {count} at once"] = {"servers": values}
    workloads = {"sweep": {"metrics": metrics}}
    return {"model": "a & b", "rounds": 3, "servers": list(medians), "workloads": workloads}


SPEEDS: dict[int, float | None] = {1: 180.0, 2: 178.0, 4: 238.0, 8: 290.0, 16: 312.0}
GAPS: dict[int, float | None] = {1: 0.008, 2: 0.02, 4: 0.05, 8: 0.09, 16: 0.15}


def test_each_server_has_a_line_in_each_diagram_and_a_place_in_the_legend() -> None:
    made = report(headrace=(SPEEDS, GAPS), other=({**SPEEDS, 16: None}, {**GAPS, 16: None}))
    drawn = ElementTree.fromstring(plot.sweep_svg(made))
    lines = [line.attrib["points"].split() for line in drawn.iter(f"{SVG}polyline")]
    assert [len(points) for points in lines] == [5, 4, 5, 4], "a point that was not measured is left out"
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    for text in ("headrace", "other", "streams at once", "tokens/s, all streams together", "1", "16"):
        assert text in texts
    assert any("a & b" in (text or "") for text in texts)
    # Faster is higher, and more streams lie further to the right.
    points = [tuple(map(float, point.split(","))) for point in lines[0]]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    heights = dict(zip(COUNTS, (-y for _, y in points), strict=True))
    assert sorted(COUNTS, key=lambda count: heights[count]) == sorted(COUNTS, key=lambda count: SPEEDS[count] or 0)


def test_all_points_lie_inside_their_diagram_whatever_the_figures() -> None:
    for factor in (1e-3, 1, 7, 1e4):
        scaled = [{at: (value or 0) * factor for at, value in line.items()} for line in (SPEEDS, GAPS)]
        drawn = ElementTree.fromstring(plot.sweep_svg(report(headrace=(scaled[0], scaled[1]))))
        for circle in drawn.iter(f"{SVG}circle"):
            assert plot.TOP <= float(circle.attrib["cy"]) <= plot.TOP + plot.HEIGHT


def test_the_same_figures_make_the_same_drawing_and_none_make_one_that_says_so() -> None:
    made = report(headrace=(SPEEDS, GAPS))
    assert plot.sweep_svg(made) == plot.sweep_svg(made)
    assert "nothing was measured" in plot.sweep_svg(report(headrace=({}, {})))
    with pytest.raises(KeyError):
        plot.sweep_svg({**made, "workloads": {}})
