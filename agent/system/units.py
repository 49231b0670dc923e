"""Acts on units through systemctl(1), which waits for the result of the job. Without systemd nothing is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from agent.model import UnitAction, UnitOutcome, UnitResult, UnitStep
from agent.system.process import ProcessResult

Run = Callable[[Sequence[str], float], ProcessResult]
_SHOW_SECONDS = 10.0
_PROPERTIES = ("LoadState", "ActiveState", "SubState", "NRestarts", "Job", "Type")
_DETAIL_CHARACTERS = 500


class ActiveState(StrEnum):
    """The ActiveState of a unit, org.freedesktop.systemd1(5)."""

    ACTIVE = "active"
    RELOADING = "reloading"
    REFRESHING = "refreshing"
    INACTIVE = "inactive"
    FAILED = "failed"
    ACTIVATING = "activating"


_RUNNING = (ActiveState.ACTIVE, ActiveState.RELOADING, ActiveState.REFRESHING)
_UNUSABLE = ("not-found", "bad-setting", "error", "masked")
"""The LoadStates of units that systemd cannot start."""


@dataclass(frozen=True, slots=True)
class UnitState:
    """The properties of a unit, in systemd's words. `load` and `active` are "unknown" if systemctl fails.

    `restarts` is the number of automatic restarts. `job` is true if a job of the unit is queued or runs.
    """

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
        """Whether the last start failed. A unit that was not started yet, or was stopped, is not down."""
        if self.active == ActiveState.ACTIVATING:
            return self.sub.startswith("auto-restart")
        return self.active == ActiveState.FAILED


class Units(Protocol):
    """Reads and changes the state of units."""

    def act(self, step: UnitStep, *, before_ready: bool) -> UnitResult:
        """Run one action. A failure is returned as a result and not raised."""
        ...

    def state(self, unit: str) -> UnitState:
        """Read the state of a unit."""
        ...

    def stop(self, unit: str) -> None:
        """Stop a unit, without waiting for it."""
        ...


class Systemd:
    """The systemd of this machine. `run` runs a program; `timeout_seconds` bounds the wait for one job."""

    def __init__(self, run: Run, timeout_seconds: float = 90.0) -> None:
        self._run = run
        self._timeout = timeout_seconds

    def state(self, unit: str) -> UnitState:
        show = self._run(["systemctl", "show", f"--property={','.join(_PROPERTIES)}", "--", unit], _SHOW_SECONDS)
        properties = dict(line.partition("=")[::2] for line in show.output.splitlines() if "=" in line)
        restarts = properties.get("NRestarts", "0")
        return UnitState(
            properties.get("LoadState", "unknown"),
            properties.get("ActiveState", "unknown"),
            properties.get("SubState", ""),
            int(restarts) if restarts.isdigit() else 0,
            properties.get("Job", "0") not in ("", "0"),
            properties.get("Type") == "oneshot",
        )

    def act(self, step: UnitStep, *, before_ready: bool) -> UnitResult:
        """Run one action.

        Before READY, systemd holds the jobs of units that are ordered after parbake, so a job on such a unit would never end.
        Therefore only a running unit is acted on then, regardless of its ordering. systemd starts the others after READY.
        """
        if step.command:
            return self._run_command(step)
        state = self.state(step.unit)
        if state.load in _UNUSABLE:
            return UnitResult(step.unit, step.action, UnitOutcome.FAILED, f"systemd reports the unit as {state.load}")
        if before_ready and not state.running and not state.down:
            if step.action == UnitAction.START:
                self._run(["systemctl", "--no-block", "start", "--", step.unit], _SHOW_SECONDS)
                return UnitResult(step.unit, step.action, UnitOutcome.QUEUED, "systemd starts it once parbake is ready")
            return UnitResult(step.unit, step.action, UnitOutcome.INACTIVE, "not running yet; it starts with this config")
        action = _effective_action(step.action, state)
        if action is None:
            return UnitResult(step.unit, step.action, UnitOutcome.STOPPED, "not running, and a reload does not start it")
        if action != UnitAction.RELOAD:
            # starts and failures with the previous config must not count towards systemd's StartLimitBurst
            self._run(["systemctl", "reset-failed", "--", step.unit], _SHOW_SECONDS)
        mode = ["--job-mode=ignore-dependencies"] if before_ready else []
        job = self._run(["systemctl", *mode, action, "--", step.unit], self._timeout)
        if job.ok:
            return UnitResult(step.unit, step.action, UnitOutcome.OK)
        return UnitResult(step.unit, step.action, UnitOutcome.FAILED, " ".join(job.output.split())[:_DETAIL_CHARACTERS])

    def _run_command(self, step: UnitStep) -> UnitResult:
        command = self._run(step.command, step.timeout_seconds)
        if command.ok:
            return UnitResult(step.unit, step.action, UnitOutcome.OK)
        # the output is dropped, because it may quote a secret of the target
        ending = "did not finish" if command.code is None else f"exit code {command.code}"
        return UnitResult(step.unit, step.action, UnitOutcome.FAILED, f"{step.command[0]}: {ending}")

    def system_state(self) -> str:
        """Return the state that `systemctl is-system-running` prints: starting, running, degraded, ..."""
        return self._run(["systemctl", "is-system-running"], _SHOW_SECONDS).output.strip()

    def stop(self, unit: str) -> None:
        self._run(["systemctl", "--no-block", "stop", "--", unit], _SHOW_SECONDS)


def _effective_action(action: UnitAction, state: UnitState) -> UnitAction | None:
    """Return the action for a unit in `state`, or None if no action is needed.

    A reload of a unit that is down becomes a restart, because the new config may repair it. A stopped unit is not reloaded.
    """
    if action == UnitAction.RELOAD and not state.running:
        return UnitAction.RESTART if state.down else None
    return action


class NoUnits:
    """Used below --root and on machines without systemd: all actions are reported as skipped."""

    def state(self, unit: str) -> UnitState:
        return UnitState("unknown", "unknown", "")

    def act(self, step: UnitStep, *, before_ready: bool) -> UnitResult:
        return UnitResult(step.unit, step.action, UnitOutcome.SKIPPED, "units are not acted on here")

    def stop(self, unit: str) -> None:
        return None


def systemd_runs() -> bool:
    """Return whether systemd is the init of this machine, by the rule of sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def booting(units: Units) -> bool:
    """Return whether the machine is starting. A job on a unit may then wait for the command that requests the job."""
    return isinstance(units, Systemd) and units.system_state() in ("initializing", "starting")


def shutting_down(units: Units) -> bool:
    """Return whether the machine is shutting down. A unit that stops then does not stop because of its config."""
    return isinstance(units, Systemd) and units.system_state() == "stopping"
