"""What a convergence works with: the edges of the process (`Runtime`), and what the last convergence learnt (`Memory`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent.convergence.plan import AppliedTarget, Plan
from agent.errors import ApplyError, DataError, StopRequested
from agent.model import Facts, FactValue, Rendering, RunConfig
from agent.paths import Paths
from agent.settings.models import Settings
from agent.sources.pull import Pulled
from agent.state.store import StateStore
from agent.status import report
from agent.status.report import Report
from agent.system import process
from agent.system.process import ProcessResult
from agent.system.stop_signals import StopDeadline
from agent.system.units import NoUnits, Systemd, Units, systemd_runs

if TYPE_CHECKING:
    from agent.templates.renderer import Renderer

Run = Callable[[Sequence[str], float], ProcessResult]
Narrate = Callable[[str, float, str], None]
GroupError = DataError | ApplyError

ACTION_GRACE_SECONDS = 15.0
"""How long an action on a unit may go on after a stop was asked for: a restart that is cut off would be done twice."""


def no_narration(step: str, seconds: float, text: str) -> None:
    return None


def _no_watchdog(seconds: float) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Runtime:
    """The edges of a convergence: settings, disk, units, programs and the clock. Built by the caller, never changed.

    `run` runs a check or a verify command and is cancelled by `stop`. `sleep` waits for seconds, or until `stop` is set.
    `extend_watchdog` is called before a step that may take so many seconds. `narrate` gets each step's name, duration in
    seconds, and result.
    """

    paths: Paths
    settings: Settings
    state: StateStore
    units: Units
    run: Run
    stop: threading.Event = field(default_factory=threading.Event)
    sleep: Callable[[float], None] = time.sleep
    narrate: Narrate = no_narration
    extend_watchdog: Callable[[float], None] = _no_watchdog

    @property
    def build(self) -> dict[str, str]:
        """The mapping that placeholders and templates see as `build`."""
        return {"component": self.settings.component.name, "version": self.settings.component.version}

    @property
    def stopping(self) -> bool:
        return self.stop.is_set()

    def raise_if_stopping(self) -> None:
        """Raises StopRequested if a stop was asked for. Call it only before anything is replaced."""
        if self.stopping:
            raise StopRequested("stopped before anything was replaced; the config that was there stays in use")


def open_runtime(
    paths: Paths,
    settings: Settings,
    stop: threading.Event,
    *,
    narrate: Narrate = no_narration,
    ping_watchdog: Callable[[], None] = lambda: None,
    extend_watchdog: Callable[[float], None] = _no_watchdog,
    previous: Runtime | None = None,
) -> Runtime:
    """Return the runtime of this machine. Units are acted on if systemd runs and `paths` is the machine itself.

    `previous` is the runtime before a reload of the settings: what its state store keeps in memory only is taken over.
    """
    stop_deadline = StopDeadline(stop, ACTION_GRACE_SECONDS)

    def run(argv: Sequence[str], seconds: float) -> ProcessResult:
        extend_watchdog(seconds)
        return process.run(argv, seconds, stop.is_set)

    def run_action(argv: Sequence[str], seconds: float) -> ProcessResult:
        extend_watchdog(seconds)
        return process.run(argv, seconds, stop_deadline.passed)

    def sleep(seconds: float) -> None:
        ping_watchdog()
        stop.wait(seconds)

    host_has_systemd = paths.is_host and systemd_runs()
    units: Units = Systemd(run_action, settings.units.timeout) if host_has_systemd else NoUnits()
    state = StateStore(paths, settings.state.cache, settings.state.generations, stop)
    if previous is not None:
        state.inherit(previous.state)
    return Runtime(paths, settings, state, units, run, stop, sleep, narrate, extend_watchdog)


@dataclass(frozen=True, slots=True)
class PlannedConvergence:
    """Everything known before anything is touched. `waiting` maps a group to the error that it waits for."""

    facts: Facts
    pulled: Pulled
    config: RunConfig
    digest: str
    renderings: Mapping[str, Rendering]
    plan: Plan
    waiting: Mapping[str, GroupError]
    rendered: int = 0


@dataclass(slots=True)
class Memory:
    """What the convergences of this process have learnt. It survives a reload of the settings.

    `applied` maps a target to what was put in place. `notices` are the facts that the platform
    has announced since: tags that changed, a termination.
    """

    report: Report
    planned: PlannedConvergence | None = None
    pulled: Pulled | None = None
    facts: Facts | None = None
    applied: dict[str, AppliedTarget] = field(default_factory=dict)
    notices: Mapping[str, FactValue | None] = field(default_factory=dict)
    renderer: Renderer | None = None
    last_logged_missing_facts: str = ""
    last_logged_waiting: str = ""
    last_logged_mask_problem: str = ""

    def take_settings(self, settings: Settings) -> None:
        """Keep what was learnt under other settings: templates are rendered again, nothing else is forgotten."""
        self.report.component = report.new_report(settings).component
        self.renderer = None
        if self.planned is not None:
            self.planned = replace(self.planned, renderings={})


def new_memory(settings: Settings) -> Memory:
    return Memory(report.new_report(settings))


class StepTimer:
    """Narrates a step with its duration, whether or not it succeeds. The result is what was appended to the list."""

    def __init__(self, runtime: Runtime, step: str) -> None:
        self._runtime, self._step, self._result = runtime, step, list[str]()
        self._start = 0.0

    def __enter__(self) -> list[str]:
        self._start = time.monotonic()
        return self._result

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        seconds = time.monotonic() - self._start
        self._runtime.narrate(self._step, seconds, " ".join(self._result) if error is None else "failed")
