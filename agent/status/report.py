"""What a convergence has found and done so far, for status.json, the metrics, and people. Never holds a value of run config."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.model import FactValue, SourceReport, SourceState, UnitResult
from agent.paths import Paths
from agent.settings.models import Settings
from agent.status import metrics, shipper
from agent.system.safe_files import write_atomic

log = logging.getLogger("parbake")
SCHEMA = 1
STATES = ("starting", "converged", "stale", "failed", "rolled-back")


def now() -> str:
    """The time as status.json, history and messages write it: UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Report:
    """Filled in step by step, so that a failure half way still tells what was known by then."""

    state: str = "starting"
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

    def set_state(self, state: str, error: str | None = None) -> None:
        """Take on a state; `since` moves only when the state does."""
        if state != self.state:
            self.since = now()
        self.state, self.error = state, error


def as_status(report: Report) -> dict[str, Any]:
    """status.json as INTERFACE.md section 7 has it. `userdata` is left out: user-data is where people put secrets."""
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
    """Prometheus text exposition format 0.0.4."""
    family = metrics.family
    return "".join(
        (
            family("state", "gauge", "1 for the state the instance is in", [({"state": s}, s == report.state) for s in STATES]),
            family("generation", "gauge", "The applied generation", [({}, report.generation)]),
            family("convergences_total", "counter", "Convergences since start", [({}, report.convergences)]),
            family("convergence_failures_total", "counter", "Convergences that failed since start", [({}, report.failures)]),
            family("convergence_seconds", "gauge", "Duration of the last convergence", [({}, report.seconds)]),
            family(
                "source_up",
                "gauge",
                "1 where the source answered and was believed",
                [({"source": s.name, "backend": s.backend}, s.state == SourceState.OK) for s in report.sources],
            ),
            family(
                "template_current",
                "gauge",
                "1 where the target holds the rendered run config",
                [({"template": t["name"]}, t["state"] == "current") for t in report.templates],
            ),
        )
    )


def publish(report: Report, paths: Paths) -> None:
    """Write status.json and metrics.prom, each whole and world-readable. Raises OSError."""
    if not paths.run.is_dir():
        paths.run.mkdir(parents=True)
        os.chmod(paths.run, 0o755)  # noqa: S103 - status and metrics are for everybody
    write_atomic(paths.status, (json.dumps(as_status(report), indent=1, sort_keys=True) + "\n").encode(), 0o644)
    write_atomic(paths.metrics, _all_metrics(report, paths).encode(), 0o644)


StatusStamp = tuple[int, int] | None


def status_stamp(paths: Paths) -> StatusStamp:
    """Which status.json there is: another one was written by another parbake. None where there is none."""
    try:
        found = paths.status.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def refresh(report: Report, paths: Paths) -> None:
    """Write metrics.prom anew where it changed: what the shipper says of itself does so without a convergence. Nothing
    depends on it, so a failure is left to the next `publish`, which complains."""
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


def new_report(settings: Settings) -> Report:
    return Report(component={"name": settings.component.name, "version": settings.component.version})
