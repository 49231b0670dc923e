"""Whether a committed generation holds: units that come up and stay up, and the templates' `verify` commands."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent.convergence import staging
from agent.convergence.journal import Tools, Transaction
from agent.model import UnitAction, UnitOutcome, UnitResult
from agent.settings.models import Template
from agent.system.units import UnitState

_POLL_SECONDS = 0.2
_COME_UP_SECONDS = 90.0
_IDLE_SECONDS = 10.0
_VERIFY_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Why some groups do not hold, and the units that this is about."""

    text: str
    groups: frozenset[str]
    units: tuple[str, ...] = ()


def verify(tools: Tools, transaction: Transaction) -> tuple[Problem, ...]:
    """Every reason why a group does not hold; none where all do. Cut short, and no judgement, where parbake is to stop."""
    found = [_failed(transaction, result) for result in transaction.results.values() if result.result == UnitOutcome.FAILED]
    acted = [
        result
        for result in transaction.results.values()
        if result.result == UnitOutcome.OK and result.action != UnitAction.COMMAND
    ]
    for result, text in _that_go_down(tools, acted):
        found.append(Problem(text, transaction.groups_of(result.unit), (result.unit,)))
    broken = frozenset(group for problem in found for group in problem.groups)
    templates = {template.name: template for template in tools.settings.templates}
    for name in transaction.templates:
        group = transaction.group_of(name)
        if name not in templates or not templates[name].verify or group in broken:
            continue
        words = _verify_command(tools, templates[name])
        if words:
            units = tuple(unit.name for unit in templates[name].units if not unit.command)
            found.append(Problem(words, frozenset((group,)), units))
    return tuple(found)


def _failed(transaction: Transaction, result: UnitResult) -> Problem:
    units = (result.unit,) if result.action != UnitAction.COMMAND else ()
    text = f"unit {result.unit}: {result.action} failed: {result.detail}"
    return Problem(text, transaction.groups_of(result.unit), units)


def _that_go_down(tools: Tools, results: Iterable[UnitResult]) -> list[tuple[UnitResult, str]]:
    """The units that do not stay up for `settle_active`, or are not up at its end, all watched at the same time."""
    watched = {result: tools.units.state(result.unit).restarts for result in results}
    down: list[tuple[UnitResult, str]] = []
    waited, settle = 0.0, tools.settings.units.settle_active
    while watched and not tools.stopping():
        for result, restarts in list(watched.items()):
            said = _went_down(tools.units.state(result.unit), restarts, at_the_end=waited >= settle)
            if said:
                down.append((result, f"unit {result.unit} {said} within {settle:g} s after its {result.action}"))
                del watched[result]
        if waited >= settle:
            break
        tools.pause(_POLL_SECONDS)
        waited += _POLL_SECONDS
    return down


def _went_down(state: UnitState, restarts: int, *, at_the_end: bool) -> str:
    """What a unit that does not stay up has done; "" for one that is up, and until the end for one that may come up."""
    if state.restarts > restarts:
        return "was restarted by systemd"
    if state.down:
        return "failed" if state.active == "failed" else "ended, and waits to be restarted by systemd"
    if state.running or (state.oneshot and state.active == "inactive"):
        return ""
    return f"is {state.active}" if at_the_end or state.active == "inactive" else ""


def _verify_command(tools: Tools, template: Template) -> str | None:
    """Tried until it passes or its time is up: a service that is active may still be warming up."""
    argv = [part.replace("{target}", str(tools.paths.host(template.target))) for part in template.verify]
    end = time.monotonic() + template.verify_timeout
    while not tools.stopping():
        ran = tools.run(argv, max(0.1, end - time.monotonic()))
        if ran.ok:
            return None
        if time.monotonic() + _VERIFY_PAUSE_SECONDS >= end:
            words = " ".join(staging.masked_output(ran, tools.secrets).split())[:500]
            return f"template {template.name}: verify failed ({'time-out' if ran.code is None else ran.code}): {words}"
        tools.pause(_VERIFY_PAUSE_SECONDS)
    return None


def not_started_yet(tools: Tools, transaction: Transaction) -> Transaction:
    """After a reboot, before READY: a unit that was acted on in the boot before has yet to be started by systemd."""
    waiting = {
        unit: replace(result, result=UnitOutcome.INACTIVE, detail="not running yet; it starts with this config")
        for unit, result in transaction.results.items()
        if result.result == UnitOutcome.OK
        and result.action != UnitAction.COMMAND
        and tools.units.state(unit).active == "inactive"
    }
    return replace(transaction, results={**transaction.results, **waiting})


def await_start(tools: Tools, transaction: Transaction) -> Transaction:
    """After READY: wait until the units that systemd starts itself are up, have failed, or stay stopped on purpose."""
    waited: dict[str, UnitResult] = {}
    for unit, result in transaction.results.items():
        waited[unit] = result if result.result not in (UnitOutcome.QUEUED, UnitOutcome.INACTIVE) else _await_unit(tools, result)
        if tools.stopping():
            return transaction  # it stays journaled, and is confirmed after the next start
    return replace(transaction, results=waited)


def _await_unit(tools: Tools, result: UnitResult) -> UnitResult:
    passed = 0.0
    while passed < _COME_UP_SECONDS and not tools.stopping():
        state = tools.units.state(result.unit)
        if state.running:
            return replace(result, result=UnitOutcome.OK, detail="started by systemd")
        if state.active == "failed":
            return replace(result, result=UnitOutcome.FAILED, detail="failed to start with this config")
        if state.active == "inactive" and not state.job and passed >= _IDLE_SECONDS:
            return replace(result, result=UnitOutcome.SKIPPED, detail="not running, and nothing starts it")
        tools.pause(_POLL_SECONDS)
        passed += _POLL_SECONDS
    return replace(result, result=UnitOutcome.FAILED, detail=f"not up after {_COME_UP_SECONDS:g} s")
