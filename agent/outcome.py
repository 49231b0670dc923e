"""What becomes of a generation that was committed: confirmed, or taken back; and one that an earlier run was stopped in.

Everything here can be done again from any point it was stopped at: the journal says how far it came.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NoReturn

from agent import generations, logs, transaction
from agent.errors import ApplyError, StateError
from agent.model import RunConfig, UnitResult
from agent.units import shutting_down
from agent.world import World, timed

log = logging.getLogger("parbake.converge")
REJECTED, HOLD = "rejected", "hold"


def finish(
    world: World, tools: transaction.Tools, done: transaction.Transaction, *, before_ready: bool
) -> tuple[UnitResult, ...]:
    """Verify a committed generation; confirm it, or go back. Raises ApplyError where it does not hold."""
    with timed(world, "verify") as said:
        problem = transaction.verify(tools, done)
        acted = any(result.result == "ok" for result in done.results.values())
        said.append(problem.text if problem else ("the units are up" if acted else "no unit to wait for"))
    results = tuple(done.results.values())
    if problem is None:
        if done.hold is not None:
            world.state.save(HOLD, {"generation": done.hold})
        if world.state.load(REJECTED).get("digest") == done.digest:
            world.state.remove(REJECTED)
        transaction.confirm(tools, done)
        world.generations.prune()
        return results
    world.report.units = results
    if world.stopping() or shutting_down(world.units):
        log.warning("generation %d is not judged while the machine shuts down; the next start verifies it", done.generation)
        return results
    if done.first:
        stopped = transaction.leave_or_stop(tools, problem)
        error = f"generation {done.generation} did not come up: {problem.text}"
        if _reject(world, done, error, generations.FAILED, {"first": True, "stopped": stopped}):
            transaction.confirm(tools, done)
        raise NotUp(
            error,
            hint="it is the first, so there is nothing to go back to; correct the run config and it converges by itself",
        )
    return go_back(world, tools, done, problem.text, before_ready=before_ready)


def go_back(
    world: World, tools: transaction.Tools, done: transaction.Transaction, problem: str, *, before_ready: bool
) -> NoReturn:
    """Take a generation back. Raises RolledBack where that is done, ApplyError where a target could not be put back."""
    targets = transaction.take_back(tools, done)
    keys = ", ".join(done.keys) or "none"
    error = f"generation {done.generation} was rolled back: {problem}; keys that changed: {keys}"
    _reject(world, done, error, generations.REJECTED, {})
    world.report.units = transaction.act_again(tools, done, before_ready=before_ready)
    world.report.generation = applied_number(world)
    world.last = None
    world.state.remove(transaction.UNDO)
    raise RolledBack(error, hint=f"{len(targets)} targets hold the earlier generation again; change the keys to try anew")


class NotUp(ApplyError):
    """A generation was put into effect and did not hold."""


class RolledBack(NotUp):
    """And the earlier one is back."""


def _reject(world: World, done: transaction.Transaction, error: str, state: str, more: Mapping[str, Any]) -> bool:
    """Remember not to try a generation again. A disk that is full costs a second try, and never the way back."""
    try:
        world.state.save(REJECTED, {"digest": done.digest, "generation": done.generation, "error": error, **more})
        world.generations.judge(done.generation, state, error=error)
        world.generations.prune()
    except StateError as failure:
        log.error("generation %d cannot be marked as %s: %s", done.generation, state, failure)
        world.generations.drop(done.generation)
        return False
    return True


def applied_number(world: World) -> int:
    last = world.generations.last()
    return last.number if last else 0


def recover(world: World, *, before_ready: bool) -> None:
    """`resume`, where what comes next is done whether or not the earlier generation holds. Raises ApplyError, StateError."""
    try:
        resume(world, before_ready=before_ready)
    except NotUp as error:
        message_id = logs.ROLLED_BACK if isinstance(error, RolledBack) else logs.FAILED
        log.error("%s", error, extra=logs.event(message_id, world.report.generation))


def resume(world: World, *, before_ready: bool) -> None:
    """Finish what an earlier run was killed in, before anything else is done. Raises ApplyError as `finish` does."""
    left = transaction.load(world.state)
    if left is None:
        transaction.sweep(world.places, world.settings.templates)
        world.generations.forget()
        return
    if left.undoing:
        _resume_going_back(world, left, before_ready=before_ready)
        return
    if not left.deferred:
        log.warning("finishing generation %d, which an earlier run was stopped in", left.generation)
    tools = tools_of(world, world.last.config if world.last else None)
    if not left.committed:
        left = transaction.complete(tools, left)
    left = transaction.act(tools, left, before_ready=before_ready)
    if before_ready:
        left = transaction.not_started_yet(tools, left)
    world.generations.judge(left.generation, generations.APPLIED, left.results.values())
    if left.deferred and not before_ready:
        left = transaction.await_start(tools, left)
    if not left.deferred:
        world.report.units = finish(world, tools, left, before_ready=before_ready)


def _resume_going_back(world: World, left: transaction.Transaction, *, before_ready: bool) -> None:
    log.warning("going back from generation %d, which an earlier run was stopped in", left.generation)
    tools = tools_of(world, None)
    if left.committed:
        go_back(world, tools, left, "it did not hold, and parbake was stopped while going back", before_ready=before_ready)
    transaction.take_back(tools, left)
    world.generations.forget()
    world.state.remove(transaction.UNDO)


def confirm_started(world: World) -> None:
    """After READY: verify what could not be before, because systemd had yet to start the units. Raises ApplyError."""
    with world.state.lock():
        resume(world, before_ready=False)


def tools_of(world: World, config: RunConfig | None) -> transaction.Tools:
    secrets = config.secret_texts() if config else None
    return transaction.Tools(
        world.places, world.settings, world.state, world.units, world.run, world.pause, secrets, world.stopping
    )
