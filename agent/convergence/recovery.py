"""What becomes of a generation that was committed: confirmed, or taken back, each group for itself; and one that an earlier
run was stopped in.

Everything here can be done again from any point it was stopped at: the journal says how far it came.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

from agent.convergence import health, journal, quarantine
from agent.convergence.context import World, timed
from agent.convergence.health import Problem
from agent.convergence.journal import Tools, Transaction
from agent.convergence.quarantine import Rejection
from agent.errors import ApplyError, RolledBack, StateError, UnhealthyAfterApply
from agent.model import RunConfig, UnitOutcome, UnitResult
from agent.state import generations
from agent.state.store import State
from agent.system import journal_log
from agent.system.units import shutting_down

log = logging.getLogger("parbake.converge")
HOLD = "hold"


def held(state: State) -> int | None:
    """The generation that `parbake rollback` holds: while it does, nothing else is put into effect."""
    return state.load(HOLD).get("generation")


@dataclass(frozen=True, slots=True)
class Finished:
    """How the units took it, and why which groups did not hold. The other groups do."""

    results: tuple[UnitResult, ...]
    failed: Mapping[str, UnhealthyAfterApply] = field(default_factory=dict)


def finish(world: World, tools: Tools, done: Transaction, *, before_ready: bool) -> Finished:
    """Verify a committed generation; confirm it, and let the groups that do not hold go back.

    Raises NotUp where no group holds: RolledBack where the earlier targets are in place again, ApplyError where one could
    not be put back.
    """
    world.report.units = tuple(done.results.values())
    with timed(world, "verify") as said:
        problems = health.verify(tools, done)
        acted = any(result.result == UnitOutcome.OK for result in done.results.values())
        said.append(_words(problems) or ("the units are up" if acted else "no unit to wait for"))
    if world.stopping() or (problems and shutting_down(world.units)):
        log.warning("generation %d is not judged while parbake stops; the next start verifies it", done.generation)
        return Finished(world.report.units)
    if not problems:
        if done.hold is not None:
            world.state.save(HOLD, {"generation": done.hold})
        quarantine.forget(world.state, {group.name for group in done.groups})
        journal.confirm(tools, done)
        world.generations.prune()
        return Finished(world.report.units)
    names = {group.name for group in done.groups}
    broken = names if done.hold is not None else {name for problem in problems for name in problem.groups or names}
    failed = {name: _words(p for p in problems if name in (p.groups or names)) or _words(problems) for name in sorted(broken)}
    done = journal.fail(tools, done, failed)
    if broken == names and (done.hold is not None or not any(group.first for group in done.groups)):
        done = journal.undo(tools, done)
    units = dict.fromkeys(unit for problem in problems for unit in problem.units)
    return _some_fail(world, tools, done, units, before_ready=before_ready)


def _words(problems: Iterable[Problem]) -> str:
    return "; ".join(dict.fromkeys(problem.text for problem in problems))


def go_back(world: World, tools: Tools, done: Transaction, why: str, *, before_ready: bool) -> NoReturn:
    """Take a whole generation back. Raises RolledBack where that is done, ApplyError where a target could not be put back."""
    targets = journal.take_back(tools, done)
    error = f"generation {done.generation} was rolled back: {why}; keys that changed: {', '.join(done.keys) or 'none'}"
    _reject(world, done, dict.fromkeys(done.failed, error), (), state=generations.REJECTED)
    names = [group.name for group in done.groups]
    world.report.units = tuple(journal.act_again(tools, done, names, before_ready=before_ready).values())
    world.report.generation = applied_number(world)
    world.last = None
    world.state.remove(journal.UNDO)
    raise RolledBack(error, hint=f"{len(targets)} targets hold the earlier generation again; {quarantine.HINT}")


def _some_fail(world: World, tools: Tools, done: Transaction, units: Iterable[str], *, before_ready: bool) -> Finished:
    """Each group that does not hold goes back to what it was, or stays where there is nothing to go back to.

    Raises NotUp where no group holds.
    """
    if done.undoing:
        go_back(world, tools, done, _why(done), before_ready=before_ready)
    stuck = {group.name for group in done.groups if group.first and group.name in done.failed}
    back = done.failed.keys() - stuck
    holds = any(group.name not in done.failed for group in done.groups)
    journal.take_back(tools, done, back)
    stopped = journal.leave_or_stop(tools, [unit for unit in units if done.groups_of(unit) <= stuck])
    failed = {name: _error(done, name, first=name in stuck) for name in done.failed}
    state = None if holds else generations.REJECTED if back else generations.FAILED
    remembered = _reject(world, done, {name: str(error) for name, error in failed.items()}, stopped, state=state)
    again = journal.act_again(tools, done, back, before_ready=before_ready)
    world.report.units = tuple({**done.results, **again}.values())
    if remembered or back:
        journal.confirm(tools, done)
        world.generations.prune()
    if not holds:
        raise next((error for error in failed.values() if isinstance(error, RolledBack)), next(iter(failed.values())))
    for error in failed.values():
        log.error("%s", error, extra=journal_log.event(journal_log.failure_id(error), done.generation))
    return Finished(world.report.units, failed)


def _error(done: Transaction, group: str, *, first: bool) -> UnhealthyAfterApply:
    said = f"generation {done.generation}"
    if len(done.groups) > 1:
        said += f", group {group or '(default)'}"
    if first:
        error = f"{said} did not come up: {done.failed[group]}"
        return UnhealthyAfterApply(error, hint=f"it is the first, so there is nothing to go back to; {quarantine.HINT}")
    error = f"{said} was rolled back: {done.failed[group]}; keys that changed: {', '.join(done.keys) or 'none'}"
    return RolledBack(error, hint=f"its targets hold what they held before; {quarantine.HINT}")


def _why(done: Transaction) -> str:
    return "; ".join(dict.fromkeys(done.failed.values())) or "it did not hold, and parbake was stopped while going back"


def _reject(
    world: World, done: Transaction, errors: Mapping[str, str], stopped: tuple[str, ...], *, state: str | None = None
) -> bool:
    """Remember what not to try again. A disk that is full costs a second try, and never the way back. `state`: what becomes
    of the whole generation; where there is none, it stays in effect without the groups that failed."""
    try:
        known = quarantine.load(world.state)
        for group in done.groups:
            if group.name in errors:
                theirs = tuple(unit for unit in stopped if group.name in done.groups_of(unit))
                known[group.name] = Rejection(group.digest, done.generation, errors[group.name], group.first, theirs)
        quarantine.save(world.state, known)
        if state is not None:
            for number in range(done.since, done.generation + 1):
                world.generations.judge(number, state, error=next(iter(errors.values())))
            world.generations.prune()
        else:
            _leave_out(world, done, errors)
    except (StateError, ApplyError) as failure:
        log.error("generation %d cannot be marked as %s: %s", done.generation, state or "partly taken back", failure)
        for number in range(done.since, done.generation + 1):
            world.generations.drop(number)
        return False
    return True


def _leave_out(world: World, done: Transaction, errors: Mapping[str, str]) -> None:
    """Record a generation without the groups that failed: what went back is as it was in the one before.

    Raises StateError, ApplyError.
    """
    known = {generation.number: generation for generation in world.generations.all()}
    now = known.pop(done.generation, None)
    if now is None:
        return
    applied = [g for g in known.values() if g.state == generations.APPLIED and g.number < done.since]
    before = applied[-1].targets if applied else {}
    out = {name for group in done.groups if group.name in errors for name in group.templates}
    targets = {name: target for name, target in now.targets.items() if name not in out}
    targets |= {name: before[name] for name in out if name in before}
    changed = replace(now, targets=targets, error="; ".join(errors.values()))
    found = [generations.standing(world.paths, name, target) for name, target in targets.items()]
    world.generations.record(changed, [change for change in found if change is not None])


def applied_number(world: World) -> int:
    last = world.generations.last()
    return last.number if last else 0


def recover(world: World, *, before_ready: bool) -> None:
    """`resume`, where what comes next is done whether or not the earlier generation holds. Raises ApplyError, StateError."""
    try:
        resume(world, before_ready=before_ready)
    except UnhealthyAfterApply as error:
        log.error("%s", error, extra=journal_log.event(journal_log.failure_id(error), world.report.generation))


def resume(world: World, *, before_ready: bool) -> Mapping[str, UnhealthyAfterApply]:
    """Finish what an earlier run was killed in, before anything else is done. The groups of it that did not hold.

    Raises ApplyError as `finish` does.
    """
    tools = tools_of(world, None)
    journal.clear(tools)
    left = journal.load(world.state)
    if left is None:
        journal.sweep(world.paths, world.settings.templates)
        world.generations.forget()
        return {}
    if left.undoing:
        _resume_going_back(world, left, before_ready=before_ready)
        return {}
    if not left.deferred:
        log.warning("finishing generation %d, which an earlier run was stopped in", left.generation)
    if world.last and world.last.digest == left.digest:  # else the secrets in what its programs print are not known
        tools = tools_of(world, world.last.config)
    if left.failed:
        units = [step.unit for step in left.steps if not step.command]
        return _some_fail(world, tools, left, units, before_ready=before_ready).failed
    if not left.committed:
        left = journal.complete(tools, left)
    left = journal.act(tools, left, before_ready=before_ready)
    if before_ready:
        left = health.not_started_yet(tools, left)
    world.generations.judge(left.generation, generations.APPLIED, left.results.values())
    if left.deferred and not before_ready:
        left = health.await_start(tools, left)
    return {} if left.deferred else finish(world, tools, left, before_ready=before_ready).failed


def _resume_going_back(world: World, left: Transaction, *, before_ready: bool) -> None:
    log.warning("going back from generation %d, which an earlier run was stopped in", left.generation)
    tools = tools_of(world, None)
    if left.committed:
        go_back(world, tools, left, _why(left), before_ready=before_ready)
    journal.take_back(tools, left)
    world.generations.forget()
    world.state.remove(journal.UNDO)


def confirm_started(world: World) -> bool:
    """After READY: verify what could not be before, because systemd had yet to start the units. Whether all of it holds.

    Raises ApplyError where none does.
    """
    with world.state.lock(pause=world.pause, stopping=world.stopping):
        return not resume(world, before_ready=False)


def tools_of(world: World, config: RunConfig | None) -> Tools:
    secrets = config.secret_texts() if config else None
    return Tools(world.paths, world.settings, world.state, world.units, world.run, world.pause, secrets, world.stopping)
