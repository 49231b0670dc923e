"""The status of the sinks in `parbake status` and metrics.prom: complete, parseable, and safe from abuse."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import SinkUnavailable
from agent.model import SourceReport, SourceState
from agent.paths import Paths
from agent.shipping.status_file import PipelineStatus, StatusFile
from agent.status import report, shipper
from agent.status.report import Report
from tests.conftest import REPOSITORY, Image

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\n"])*"'
SAMPLE = re.compile(rf"({NAME})(\{{{LABEL}(?:,{LABEL})*\}})? (-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")
PAGE = REPOSITORY / "docs" / "reference" / "status.md"


def parse(text: str) -> dict[str, dict[str, float]]:
    """Metric -> labels -> value, by the letter of the text exposition format 0.0.4. Fails for anything else: a sample
    before its HELP and TYPE or apart from its family, a name or series twice, a counter that does not end in _total."""
    assert text.endswith("\n")
    found: dict[str, dict[str, float]] = {}
    current, helped = "", ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped, doc = line[7:].split(" ", 1)
            assert helped not in found
            assert doc
        elif line.startswith("# TYPE "):
            current, kind = line[7:].split(" ")
            assert current == helped
            assert kind in ("gauge", "counter")
            assert (kind == "counter") == current.endswith("_total")
            found[current] = {}
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] == current
            assert (match[2] or "") not in found[current]
            found[current][match[2] or ""] = float(match[3])
    return found


def published(paths: Paths) -> dict[str, dict[str, float]]:
    report.publish(Report(), paths)
    return parse(paths.metrics.read_text())


def pipelines() -> list[PipelineStatus]:
    """A sink with two readers, one of which is failing, and another sink that is ok."""
    journal, files = PipelineStatus("loki", "loki", "journal"), PipelineStatus("loki", "loki", "files")
    other = PipelineStatus("out", "file", "files")
    journal.add_sent(7_654_321)
    files.add_sent(2)
    files.add_lost(3, "gone")
    files.set_oldest(int((time.time() - 90) * 1e6))
    for _ in range(4):
        files.set_failing(SinkUnavailable("no route"))
    other.set_caught_up()
    return [journal, files, other]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    found.ship.mkdir(parents=True)
    return found


def test_metrics_say_how_each_sink_fares(paths: Paths) -> None:
    """Lag, rate, retries and exact losses of each sink are in metrics.prom, beside the daemon's metrics."""
    StatusFile(paths.ship / "status.json", pipelines()).write()
    found = published(paths)
    loki = '{sink="loki"}'
    assert found["parbake_ship_sent_total"][loki] == 7_654_323
    assert found["parbake_ship_lost_total"][loki] == 3
    assert found["parbake_ship_retries_total"][loki] == 4
    assert 85 < found["parbake_ship_lag_seconds"][loki] < 300
    assert found["parbake_ship_up"] == {'{sink="loki",type="loki"}': 0, '{sink="out",type="file"}': 1}
    assert "parbake_state" in found


def test_numbers_of_a_dead_shipper_are_told_from_fresh_ones(paths: Paths) -> None:
    """If the shipper does not run, its sinks are down and the time of its last status does not change."""
    StatusFile(paths.ship / "status.json", pipelines()).write()
    status = json.loads((paths.ship / "status.json").read_text())
    fresh = published(paths)
    (paths.ship / "status.json").write_text(json.dumps({**status, "time": status["time"] - 600}))
    stale = published(paths)
    when = "parbake_ship_status_timestamp_seconds"
    assert fresh[when][""] - stale[when][""] == pytest.approx(600)
    assert set(stale["parbake_ship_up"].values()) == {0}


def test_metrics_follow_the_shipper_without_a_convergence(paths: Paths) -> None:
    """A refresh between convergences brings new numbers, and writes nothing if they have not changed."""
    published(paths)
    StatusFile(paths.ship / "status.json", pipelines()).write()
    report.refresh(Report(), paths)
    assert "parbake_ship_sent_total" in parse(paths.metrics.read_text())
    before = paths.metrics.stat().st_ino
    report.refresh(Report(), paths)
    assert paths.metrics.stat().st_ino == before


def _hostile(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def put(path: Path) -> None:
        status: dict[str, Any] = json.loads(path.read_text())
        change(status)
        path.write_text(json.dumps(status))

    return put


def _in_place_of(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


BREAKS_OUT = 'x"} 1\nparbake_state{state="converged"} 1\n#'
HOSTILE: dict[str, Callable[[Path], object]] = {
    "a link to a secret": lambda path: _in_place_of(path, lambda p: p.symlink_to("/etc/shadow")),
    "a pipe": lambda path: _in_place_of(path, os.mkfifo),
    "a directory": lambda path: _in_place_of(path, Path.mkdir),
    "gigabytes": lambda path: os.truncate(path, 1 << 33),
    "deep nesting": lambda path: path.write_text("[" * 100_000),
    "a number without end": lambda path: path.write_text('{"schema": 1, "sinks": {}, "time": ' + "9" * 10_000 + "}"),
    "no JSON": lambda path: path.write_bytes(b"\xff\xfe"),
    "a list": lambda path: path.write_text("[]"),
    "sinks that are none": _hostile(lambda s: s.update(sinks={"a": 5, "b": None})),
    "too many sinks": _hostile(lambda s: s.update(sinks={str(n): {} for n in range(10_000)})),
    "NaN": _hostile(lambda s: s["sinks"]["loki"].update(sent=float("nan"), lag_seconds=float("inf"), rate=-1)),
    "words for numbers": _hostile(lambda s: s["sinks"]["loki"].update(sent="1} 2\nparbake_state 9", lost=True, retries=None)),
    "names that break out": _hostile(lambda s: s["sinks"].update({BREAKS_OUT: {"state": 'ok"'}})),
    "a far future": _hostile(lambda s: s.update(time=1e17)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_whoever_has_taken_over_the_shipper_gets_nothing_by_its_status(paths: Paths, name: str) -> None:
    """With any content in place of the shipper's status, metrics are written, parse, and have nothing of it but numbers."""
    StatusFile(paths.ship / "status.json", pipelines()).write()
    HOSTILE[name](paths.ship / "status.json")
    found = published(paths)
    assert set(found["parbake_state"].values()) == {0, 1}
    assert len(found["parbake_state"]) == len(report.InstanceState)
    assert "root:" not in paths.metrics.read_text()


def test_the_command_shows_each_sink(image: Image) -> None:
    """`parbake status` has lag, rate, retries and losses of each sink, and shows that the shipper is silent."""
    image.settings("", site=False)
    assert image.run("once").code == 0
    path = image.path("/var/lib/parbake/ship/status.json")
    path.parent.mkdir(parents=True)
    StatusFile(path, pipelines()).write()
    shown = image.run("status").out
    assert re.search(r"loki +loki +failing +lag \d+ s +\d+ entries/s +sent 7654323 +retries 4 +lost 3 .*no route", shown)
    assert "silent" not in shown
    found = image.run("status", "--json").json()
    assert found["shipping"]["loki"]["lost"] == 3
    assert found["shipper"]["silent"] is False
    status = json.loads(path.read_text())
    status["sinks"]["loki"]["error"] = "\x1b]0;owned\x07\nroot@host:~# "
    path.write_text(json.dumps({**status, "time": 1_700_000_000}))
    shown = image.run("status").out
    assert "silent since 2023-11-14T22:13:20Z" in shown
    assert "\x1b" not in shown
    assert "?]0;owned??root" in shown


def test_every_metric_and_field_can_be_looked_up(paths: Paths) -> None:
    """docs/reference/status.md names each metric with its type, and each field of both status files."""
    StatusFile(paths.ship / "status.json", pipelines()).write()
    told = Report(
        sources=(SourceReport("site", "file", SourceState.OK),),
        templates=({"name": "a", "target": "/a", "state": "current", "generation": 1},),
    )
    report.publish(told, paths)
    page = PAGE.read_text("utf-8")
    text = paths.metrics.read_text()
    kinds = dict(line[7:].split(" ") for line in text.splitlines() if line.startswith("# TYPE "))
    assert len(kinds) > 15
    assert [name for name, kind in kinds.items() if f"| `{name}` | {kind} |" not in page] == []
    own, theirs = (json.loads(path.read_text()) for path in (paths.status, paths.ship / "status.json"))
    fields = {*own, *own["sources"][0], *own["templates"][0], *theirs, *theirs["sinks"]["loki"], "hold"}
    assert [name for name in sorted(fields) if f"`{name}`" not in page] == []
    assert [state for state in (*report.InstanceState, *shipper.STATES) if f"`{state}`" not in page] == []
