"""Whether an applied generation holds: units that come up and stay up, and the `verify` commands of the templates."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agent.convergence.checking import masked_output
from agent.convergence.context import Runtime
from agent.convergence.journal import Transaction
from agent.model import UnitAction, UnitOutcome, UnitResult
from agent.settings.models import Template
from agent.system.units import ActiveState, UnitState

_POLL_SECONDS = 0.2
_COME_UP_SECONDS = 90.0
_IDLE_SECONDS = 10.0
_VERIFY_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Why some groups do not hold, and the units that the problem is about."""

    text: str
    groups: frozenset[str]
    units: tuple[str, ...] = ()


def verify(runtime: Runtime, transaction: Transaction, secrets: Sequence[str] | None) -> tuple[Problem, ...]:
    """Return every reason why a group does not hold. `secrets` are masked in the output of commands (None: not known).

    A stop cuts this short: the caller then must not judge.
    """
    problems = [
        _of_failed_action(transaction, result) for result in transaction.results.values() if result.result == UnitOutcome.FAILED
    ]
    acted = [
        result
        for result in transaction.results.values()
        if result.result == UnitOutcome.OK and result.action != UnitAction.COMMAND
    ]
    for result, text in _units_that_go_down(runtime, acted):
        problems.append(Problem(text, transaction.groups_of(result.unit), (result.unit,)))
    broken = frozenset(group for problem in problems for group in problem.groups)
    templates = {template.name: template for template in runtime.settings.templates}
    for name in transaction.templates:
        group = transaction.group_of(name)
        if name not in templates or not templates[name].verify or group in broken:
            continue
        failure = _run_verify(runtime, templates[name], secrets)
        if failure:
            units = tuple(unit.name for unit in templates[name].units if not unit.command)
            problems.append(Problem(failure, frozenset((group,)), units))
    return tuple(problems)


def _of_failed_action(transaction: Transaction, result: UnitResult) -> Problem:
    units = (result.unit,) if result.action != UnitAction.COMMAND else ()
    text = f"unit {result.unit}: {result.action} failed: {result.detail}"
    return Problem(text, transaction.groups_of(result.unit), units)


def _units_that_go_down(runtime: Runtime, results: Iterable[UnitResult]) -> list[tuple[UnitResult, str]]:
    """Watch the units for `settle_active`, all at the same time. Returns those that do not stay up, each with the reason."""
    watched = {result: runtime.units.state(result.unit).restarts for result in results}
    down: list[tuple[UnitResult, str]] = []
    waited_seconds, settle_seconds = 0.0, runtime.settings.units.settle_active
    while watched and not runtime.stopping:
        for result, restarts in list(watched.items()):
            reason = _reason_down(runtime.units.state(result.unit), restarts, at_the_end=waited_seconds >= settle_seconds)
            if reason:
                down.append((result, f"unit {result.unit} {reason} within {settle_seconds:g} s after its {result.action}"))
                del watched[result]
        if waited_seconds >= settle_seconds:
            break
        runtime.sleep(_POLL_SECONDS)
        waited_seconds += _POLL_SECONDS
    return down


def _reason_down(state: UnitState, restarts: int, *, at_the_end: bool) -> str:
    """Return why a unit is not up; "" for one that is up, and before the end for one that may still come up."""
    if state.restarts > restarts:
        return "was restarted by systemd"
    if state.down:
        return "failed" if state.active == ActiveState.FAILED else "ended, and waits to be restarted by systemd"
    if state.running or (state.oneshot and state.active == ActiveState.INACTIVE):
        return ""
    return f"is {state.active}" if at_the_end or state.active == ActiveState.INACTIVE else ""


def _run_verify(runtime: Runtime, template: Template, secrets: Sequence[str] | None) -> str | None:
    """Run a verify command until it passes or its time is up: a service that is active may still be warming up.

    Returns None if it passes, or the failure.
    """
    argv = [part.replace("{target}", str(runtime.paths.host(template.target))) for part in template.verify]
    end = time.monotonic() + template.verify_timeout
    while not runtime.stopping:
        result = runtime.run(argv, max(0.1, end - time.monotonic()))
        if result.ok:
            return None
        if time.monotonic() + _VERIFY_PAUSE_SECONDS >= end:
            output = " ".join(masked_output(result, secrets).split())[:500]
            ending = "time-out" if result.code is None else result.code
            return f"template {template.name}: verify failed ({ending}): {output}"
        runtime.sleep(_VERIFY_PAUSE_SECONDS)
    return None


def with_units_not_started(runtime: Runtime, transaction: Transaction) -> Transaction:
    """Before READY and after a reboot: a unit that was acted on in the boot before may still have to be started by systemd."""
    waiting = {
        unit: replace(result, result=UnitOutcome.INACTIVE, detail="not running yet; it starts with this config")
        for unit, result in transaction.results.items()
        if result.result == UnitOutcome.OK
        and result.action != UnitAction.COMMAND
        and runtime.units.state(unit).active == ActiveState.INACTIVE
    }
    return replace(transaction, results={**transaction.results, **waiting})


def await_start(runtime: Runtime, transaction: Transaction) -> Transaction:
    """After READY: wait until each unit that systemd starts is up, has failed, or stays stopped on purpose.

    A stop ends the wait, and the transaction is returned as it was.
    """
    results: dict[str, UnitResult] = {}
    for unit, result in transaction.results.items():
        results[unit] = (
            result if result.result not in (UnitOutcome.QUEUED, UnitOutcome.INACTIVE) else _await_unit(runtime, result)
        )
        if runtime.stopping:
            return transaction
    return replace(transaction, results=results)


def _await_unit(runtime: Runtime, result: UnitResult) -> UnitResult:
    waited_seconds = 0.0
    while waited_seconds < _COME_UP_SECONDS and not runtime.stopping:
        state = runtime.units.state(result.unit)
        if state.running:
            return replace(result, result=UnitOutcome.OK, detail="started by systemd")
        if state.active == ActiveState.FAILED:
            return replace(result, result=UnitOutcome.FAILED, detail="failed to start with this config")
        if state.active == ActiveState.INACTIVE and not state.job and waited_seconds >= _IDLE_SECONDS:
            return replace(result, result=UnitOutcome.SKIPPED, detail="not running, and nothing starts it")
        runtime.sleep(_POLL_SECONDS)
        waited_seconds += _POLL_SECONDS
    return replace(result, result=UnitOutcome.FAILED, detail=f"not up after {_COME_UP_SECONDS:g} s")
