"""The report of a process: the state and the results of its convergences. It contains no value of run config."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from agent.errors import ParbakeError, RolledBack
from agent.model import FactValue, SourceReport, SourceState, UnitResult
from agent.paths import Paths
from agent.settings.models import Settings
from agent.status import metrics, shipper
from agent.system.safe_files import write_atomic

log = logging.getLogger("parbake")
SCHEMA = 1


class InstanceState(StrEnum):
    """`state` of status.json."""

    STARTING = "starting"
    CONVERGED = "converged"
    STALE = "stale"
    """It runs on the last good run config."""
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"


class TemplateState(StrEnum):
    """`state` of a template in status.json."""

    CURRENT = "current"
    DRIFTED = "drifted"
    """The target was edited by hand, and is not repaired."""
    WAITING = "waiting"
    """An error delays its group; the old target is kept."""
    REJECTED = "rejected"
    """Its group was rolled back or failed a check, and is not tried again."""


def now() -> str:
    """Return the time as status.json, history and messages write it: UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Report:
    """The report, filled step by step, so that a failure still shows the results of the steps before it."""

    state: InstanceState = InstanceState.STARTING
    since: str = field(default_factory=now)
    generation: int = 0
    digest: str = ""
    component: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, FactValue] = field(default_factory=dict)
    sources: tuple[SourceReport, ...] = ()
    templates: tuple[dict[str, Any], ...] = ()
    units: tuple[UnitResult, ...] = ()
    error: str | None = None
    hold: int | None = None
    seconds: float = 0.0
    convergences: int = 0
    failures: int = 0

    def set_state(self, state: InstanceState, error: str | None = None) -> None:
        """Set the state and the error. `since` changes only if the state does."""
        if state != self.state:
            self.since = now()
        self.state, self.error = state, error


def as_status(report: Report) -> dict[str, Any]:
    """Return the content of status.json (INTERFACE section 7). `userdata` is left out, because it often contains secrets."""
    status: dict[str, Any] = {
        "schema": SCHEMA,
        "state": report.state,
        "generation": report.generation,
        "digest": report.digest,
        "since": report.since,
        "component": dict(report.component),
        "facts": {
            name: value if isinstance(value, str) else dict(value) for name, value in report.facts.items() if name != "userdata"
        },
        "sources": [asdict(source) for source in report.sources],
        "templates": list(report.templates),
        "units": [{"name": u.unit, "action": u.action, "result": u.result, "detail": u.detail} for u in report.units],
        "error": report.error,
    }
    if report.hold is not None:
        status["hold"] = report.hold
    return status


def as_metrics(report: Report) -> str:
    """Return metrics.prom, in the Prometheus text exposition format 0.0.4."""
    family = metrics.family
    states = [({"state": state.value}, state == report.state) for state in InstanceState]
    return "".join(
        (
            family(
                "state",
                "gauge",
                "1 for the current state of the instance",
                states,
            ),
            family("generation", "gauge", "The applied generation", [({}, report.generation)]),
            family("convergences_total", "counter", "Convergences since start", [({}, report.convergences)]),
            family("convergence_failures_total", "counter", "Convergences that failed since start", [({}, report.failures)]),
            family("convergence_seconds", "gauge", "Duration of the last convergence", [({}, report.seconds)]),
            family(
                "source_up",
                "gauge",
                "1 if the source answered and its answer was accepted",
                [({"source": s.name, "backend": s.backend}, s.state == SourceState.OK) for s in report.sources],
            ),
            family(
                "template_current",
                "gauge",
                "1 if the target has the rendered run config",
                [({"template": t["name"]}, t["state"] == TemplateState.CURRENT) for t in report.templates],
            ),
        )
    )


def publish(report: Report, paths: Paths) -> None:
    """Write status.json and metrics.prom, each whole and world-readable. Raises OSError."""
    if not paths.run.is_dir():
        paths.run.mkdir(parents=True)
        os.chmod(paths.run, 0o755)  # noqa: S103 - status and metrics are public
    write_atomic(paths.status, (json.dumps(as_status(report), indent=1, sort_keys=True) + "\n").encode(), 0o644)
    write_atomic(paths.metrics, _all_metrics(report, paths).encode(), 0o644)


StatusStamp = tuple[int, int] | None


def status_stamp(paths: Paths) -> StatusStamp:
    """Return a stamp of status.json, or None if it does not exist. It changes when another parbake writes the file."""
    try:
        status = paths.status.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def refresh(report: Report, paths: Paths) -> None:
    """Write metrics.prom again if it changed: the shipper's numbers change without a convergence.

    A failure is left to the next `publish`, which raises it.
    """
    content = _all_metrics(report, paths).encode()
    try:
        if paths.metrics.read_bytes() != content:
            write_atomic(paths.metrics, content, 0o644)
    except OSError as error:
        log.debug("%s cannot be written: %s", paths.metrics, error.strerror)


def _all_metrics(report: Report, paths: Paths) -> str:
    try:
        shipping = shipper.read(paths.ship / "status.json")
    except (OSError, ValueError) as error:
        log.debug("the shipper's status is left out of the metrics: %s", error)
        shipping = None
    return as_metrics(report) + (shipper.as_metrics(shipping, time.time()) if shipping else "")


def state_after(error: ParbakeError) -> InstanceState:
    """Return the state of the instance after a convergence that raised an error."""
    return InstanceState.ROLLED_BACK if isinstance(error, RolledBack) else InstanceState.FAILED


def new_report(settings: Settings) -> Report:
    """Return the report of a process that has not converged yet."""
    return Report(component={"name": settings.component.name, "version": settings.component.version})
