"""Units are acted on through systemctl, which waits for the job's own result. Where there is no systemd, nothing is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.model import UnitAction, UnitOutcome, UnitResult, UnitStep
from agent.system.process import ProcessResult

Run = Callable[[Sequence[str], float], ProcessResult]
_SHOW_SECONDS = 10.0
_PROPERTIES = ("LoadState", "ActiveState", "SubState", "NRestarts", "Job", "Type")
_RUNNING = ("active", "reloading", "refreshing")


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd says of a unit. `restarts` counts its automatic restarts; `job` says whether one is queued or runs."""

    load: str
    active: str
    sub: str = ""
    restarts: int = 0
    job: bool = False
    oneshot: bool = False

    @property
    def running(self) -> bool:
        return self.active in _RUNNING

    @property
    def down(self) -> bool:
        """Whether its last start failed. A unit that was not started yet, or was stopped, is not down."""
        return self.active == "failed" or (self.active == "activating" and self.sub.startswith("auto-restart"))


class Units(Protocol):
    """What acts on units."""

    def act(self, step: UnitStep, *, before_ready: bool) -> UnitResult:
        """Do one action. Never raises for a unit that fails: that is a result."""
        ...

    def state(self, unit: str) -> UnitState:
        """How a unit stands now."""
        ...

    def stop(self, unit: str) -> None:
        """Stop a unit that did not come up, without waiting."""
        ...


class Systemd:
    """The machine's own systemd. `timeout_seconds` bounds the wait for one job."""

    def __init__(self, run: Run, timeout_seconds: float = 90.0) -> None:
        self._run = run
        self._timeout = timeout_seconds

    def state(self, unit: str) -> UnitState:
        ran = self._run(["systemctl", "show", f"--property={','.join(_PROPERTIES)}", "--", unit], _SHOW_SECONDS)
        said = dict(line.partition("=")[::2] for line in ran.output.splitlines() if "=" in line)
        restarts = said.get("NRestarts", "0")
        return UnitState(
            said.get("LoadState", "unknown"),
            said.get("ActiveState", "unknown"),
            said.get("SubState", ""),
            int(restarts) if restarts.isdigit() else 0,
            said.get("Job", "0") not in ("", "0"),
            said.get("Type") == "oneshot",
        )

    def act(self, step: UnitStep, *, before_ready: bool) -> UnitResult:
        """Before READY, a unit ordered after parbake waits for it: a job on it would wait for ever. So only a unit that
        runs already is acted on then, and without regard to its ordering; systemd starts the others itself, after READY.
        """
        if step.command:
            return self._run_command(step)
        state = self.state(step.unit)
        if state.load in ("not-found", "bad-setting", "error", "masked"):
            return UnitResult(step.unit, step.action, UnitOutcome.FAILED, f"systemd says the unit is {state.load}")
        if before_ready and not state.running and not state.down:
            if step.action == UnitAction.START:
                self._run(["systemctl", "--no-block", "start", "--", step.unit], _SHOW_SECONDS)
                return UnitResult(step.unit, step.action, UnitOutcome.QUEUED, "started by systemd once parbake is ready")
            return UnitResult(step.unit, step.action, UnitOutcome.INACTIVE, "not running yet; it starts with this config")
        action = _fitting(step.action, state)
        if action is None:
            return UnitResult(step.unit, step.action, UnitOutcome.STOPPED, "it does not run, and a reload does not start it")
        if action != UnitAction.RELOAD:
            # the starts of the config before, and its failures, must not use up the limit that systemd sets
            self._run(["systemctl", "reset-failed", "--", step.unit], _SHOW_SECONDS)
        mode = ["--job-mode=ignore-dependencies"] if before_ready else []
        ran = self._run(["systemctl", *mode, action, "--", step.unit], self._timeout)
        if ran.ok:
            return UnitResult(step.unit, step.action, UnitOutcome.OK)
        return UnitResult(step.unit, step.action, UnitOutcome.FAILED, " ".join(ran.output.split())[:500])

    def _run_command(self, step: UnitStep) -> UnitResult:
        ran = self._run(step.command, step.timeout_seconds)
        if ran.ok:
            return UnitResult(step.unit, step.action, UnitOutcome.OK)
        # what it printed may quote a target's secret, and is not kept
        ending = "did not finish" if ran.code is None else f"exit code {ran.code}"
        return UnitResult(step.unit, step.action, UnitOutcome.FAILED, f"{step.command[0]}: {ending}")

    def system_state(self) -> str:
        """As systemctl(1) is-system-running says it: starting, running, degraded, ..."""
        return self._run(["systemctl", "is-system-running"], _SHOW_SECONDS).output.strip()

    def stop(self, unit: str) -> None:
        self._run(["systemctl", "--no-block", "stop", "--", unit], _SHOW_SECONDS)


def _fitting(action: UnitAction, state: UnitState) -> UnitAction | None:
    """A unit that is down is started again, since new config may be what it lacked; a stopped one is not reloaded."""
    if action == UnitAction.RELOAD and not state.running:
        return UnitAction.RESTART if state.down else None
    return action


class NoUnits:
    """Below --root, or where systemd does not run: actions are reported as skipped."""

    def state(self, unit: str) -> UnitState:
        return UnitState("unknown", "unknown", "")

    def act(self, step: UnitStep, *, before_ready: bool) -> UnitResult:
        return UnitResult(step.unit, step.action, UnitOutcome.SKIPPED, "units are not acted on here")

    def stop(self, unit: str) -> None:
        return None


def systemd_runs() -> bool:
    """Whether systemd is the init of this machine, as sd_booted(3) decides it."""
    return os.path.isdir("/run/systemd/system")


def booting(units: Units) -> bool:
    """Whether the machine is still starting, so that a job on a unit may wait for the very command that asks for it."""
    return isinstance(units, Systemd) and units.system_state() in ("initializing", "starting")


def shutting_down(units: Units) -> bool:
    """Whether the machine is going down, so that a unit that is stopped says nothing of its config."""
    return isinstance(units, Systemd) and units.system_state() == "stopping"
