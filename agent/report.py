"""What a convergence has found and done so far, for status.json, the metrics, and people. Never holds a value of run config."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.disk import write_atomic
from agent.model import FactValue, SourceReport, UnitResult
from agent.places import Places
from agent.settings.tables import Settings

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

    def enter(self, state: str, error: str | None = None) -> None:
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
    lines: list[str] = []

    def metric(name: str, kind: str, doc: str, samples: list[tuple[str, float]]) -> None:
        lines.append(f"# HELP parbake_{name} {doc}")
        lines.append(f"# TYPE parbake_{name} {kind}")
        lines.extend(f"parbake_{name}{labels} {value:g}" for labels, value in samples)

    metric("state", "gauge", "1 for the state the instance is in", [(f'{{state="{s}"}}', s == report.state) for s in STATES])
    metric("generation", "gauge", "The applied generation", [("", report.generation)])
    metric("convergences_total", "counter", "Convergences since start", [("", report.convergences)])
    metric("convergence_failures_total", "counter", "Convergences that failed since start", [("", report.failures)])
    metric("convergence_seconds", "gauge", "Duration of the last convergence", [("", report.seconds)])
    sources = [(f'{{source="{_label(s.name)}",backend="{_label(s.backend)}"}}', float(s.state == "ok")) for s in report.sources]
    metric("source_up", "gauge", "1 where the source answered and was believed", sources)
    waiting = [(f'{{template="{_label(t["name"])}"}}', float(t["state"] == "current")) for t in report.templates]
    metric("template_current", "gauge", "1 where the target holds the rendered run config", waiting)
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def publish(report: Report, places: Places) -> None:
    """Write status.json and metrics.prom, each whole and world-readable. Raises OSError."""
    if not places.run.is_dir():
        places.run.mkdir(parents=True)
        os.chmod(places.run, 0o755)  # noqa: S103 - status and metrics are for everybody
    write_atomic(places.status, (json.dumps(as_status(report), indent=1, sort_keys=True) + "\n").encode(), 0o644)
    write_atomic(places.metrics, as_metrics(report).encode(), 0o644)


def fresh(settings: Settings) -> Report:
    return Report(component={"name": settings.component.name, "version": settings.component.version})
