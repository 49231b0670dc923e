"""Unit actions through systemctl; status.json and metrics of a convergence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.model import SourceReport, SourceState, UnitAction, UnitOutcome, UnitResult, UnitStep
from agent.paths import Paths
from agent.status import report
from agent.status.report import InstanceState, Report
from agent.system.process import ProcessResult
from agent.system.units import NoUnits, Systemd


@dataclass
class Systemctl:
    """A systemctl(1) with one unit."""

    shows: Mapping[str, str]
    answer: ProcessResult = ProcessResult(0, "")
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, argv: Sequence[str], seconds: float) -> ProcessResult:
        assert argv[0] == "systemctl"
        if argv[1] == "show":
            return ProcessResult(0, "\n".join(f"{name}={value}" for name, value in self.shows.items()))
        self.calls.append(tuple(argv[1:]))
        return self.answer


UP = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "NRestarts": "2", "Job": "0", "Type": "notify"}
STOPPED = {**UP, "ActiveState": "inactive", "SubState": "dead"}
FAILED = {**UP, "ActiveState": "failed", "SubState": "failed"}
STEP = UnitStep("app.service", UnitAction.RELOAD, ("app",))


def acted(shows: Mapping[str, str], action: str, *, before_ready: bool = False) -> tuple[str, list[str]]:
    """Return the result of an action, and the jobs requested from systemd."""
    systemctl = Systemctl(shows)
    step = UnitStep("app.service", UnitAction(action), ("app",))
    result = Systemd(systemctl).act(step, before_ready=before_ready)
    jobs = [" ".join(words) for words in systemctl.calls if words[0] != "reset-failed"]
    return result.result, jobs


@pytest.mark.parametrize("action", ["reload", "restart", "reload-or-restart", "start"])
def test_a_running_unit_gets_the_requested_action(action: str) -> None:
    """The action that the template names is requested from systemd, whose job result is awaited."""
    assert acted(UP, action) == ("ok", [f"{action} -- app.service"])


def test_a_stopped_unit_is_not_reloaded() -> None:
    """A stopped unit reads its config when it starts; a reload does not start it. A failed unit is restarted."""
    result, jobs = acted(STOPPED, "reload")
    assert (result != "ok", jobs) == (True, [])
    assert acted(FAILED, "reload") == ("ok", ["restart -- app.service"])


def test_before_ready_no_job_waits_for_parbake_itself() -> None:
    """Before READY only active units are acted on, without blocking. systemd starts the others after READY."""
    assert acted(UP, "reload", before_ready=True) == ("ok", ["--job-mode=ignore-dependencies reload -- app.service"])
    assert acted(STOPPED, "restart", before_ready=True) == ("inactive", [])
    assert acted(STOPPED, "start", before_ready=True) == ("queued", ["--no-block start -- app.service"])


def test_a_job_that_fails_is_a_result() -> None:
    """The output of systemctl about a failure is kept, up to a limit. A time-out is a failure too."""
    systemctl = Systemctl(UP, ProcessResult(1, "Job for app.service failed.\nSee journalctl." + "x" * 5000))
    result = Systemd(systemctl).act(STEP, before_ready=False)
    assert result.result == "failed"
    assert "Job for app.service failed. See journalctl." in result.detail
    assert len(result.detail) <= 500
    assert Systemd(Systemctl(UP, ProcessResult(None, ""))).act(STEP, before_ready=False).result == "failed"


@pytest.mark.parametrize("load", ["not-found", "masked", "bad-setting", "error"])
def test_a_unit_that_cannot_be_acted_on(load: str) -> None:
    """A unit that is missing or masked is reported as such, and no job is requested."""
    systemctl = Systemctl({**STOPPED, "LoadState": load})
    result = Systemd(systemctl).act(STEP, before_ready=False)
    assert (result.result, systemctl.calls) == ("failed", [])
    assert load in result.detail


def test_no_systemd() -> None:
    """INTERFACE section 3: below --root units are not acted on; the action is reported as skipped."""
    assert NoUnits().act(STEP, before_ready=False).result == "skipped"


def test_status_and_metrics(tmp_path: Path) -> None:
    """INTERFACE sections 2 and 7: both are world-readable, whole, and hold no user-data; metrics parse with any names."""
    published = Report(
        facts={"environment": "dev", "userdata": {"password": "hunter2"}, "tags": {"a": "b"}},
        sources=(SourceReport('si"te\n', "file", SourceState.STALE, error="no route"),),
        templates=({"name": "a\\b", "target": "/a", "state": "waiting", "generation": 0},),
        units=(UnitResult("app.service", UnitAction.RELOAD, UnitOutcome.OK),),
    )
    published.set_state(InstanceState.STALE, "no route")
    paths = Paths(tmp_path)
    report.publish(published, paths)
    assert "hunter2" not in paths.status.read_text() + paths.metrics.read_text()
    status = json.loads(paths.status.read_text())
    assert {"schema", "state", "generation", "digest", "since", "component", "facts"} <= set(status)
    assert {"sources", "templates", "units", "error"} <= set(status)
    assert (status["state"], status["error"], status["facts"]["tags"]) == ("stale", "no route", {"a": "b"})
    for line in paths.metrics.read_text().splitlines():
        assert re.fullmatch(r'(# (HELP|TYPE) .*|parbake_\w+(\{(\w+="([^"\\\n]|\\.)*",?)*\})? [-+.e0-9]+)', line), line
    assert 'parbake_state{state="stale"} 1' in paths.metrics.read_text()
    assert paths.status.stat().st_mode & 0o777 == paths.metrics.stat().st_mode & 0o777 == 0o644


def test_since_moves_with_the_state_alone() -> None:
    """INTERFACE section 7: `since` is the time at which the state last changed."""
    published = Report(state=InstanceState.CONVERGED, since="2026-01-01T00:00:00Z")
    published.set_state(InstanceState.CONVERGED)
    assert published.since == "2026-01-01T00:00:00Z"
    published.set_state(InstanceState.STALE, "x")
    assert published.since != "2026-01-01T00:00:00Z"
