"""The actions of a convergence on units: each once, in order, with its result in the journal."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from agent.convergence import journal
from agent.convergence.context import Runtime
from agent.convergence.journal import Transaction
from agent.model import UnitAction, UnitOutcome, UnitResult, UnitStep
from agent.net.backoff import Backoff

log = logging.getLogger("parbake.apply")
_RETRY_FIRST_SECONDS, _RETRY_LAST_SECONDS = 0.5, 30.0


def act(runtime: Runtime, transaction: Transaction, *, before_ready: bool) -> Transaction:
    """Act on every unit that has no result yet. Raises StateError if a result cannot be recorded.

    After a stop was asked for, no further action begins. One that fails then may have been cut off, and has no result. The
    next start acts on the units without one.
    """
    for step in transaction.steps:
        if step.unit in transaction.results:
            continue
        if runtime.stopping:
            return transaction
        result = _act_with_retries(runtime, step, before_ready=before_ready)
        if result.result == UnitOutcome.FAILED and runtime.stopping:
            return transaction
        log.log(
            logging.INFO if result.result != UnitOutcome.FAILED else logging.ERROR,
            "unit %s: %s %s%s",
            step.unit,
            step.action,
            result.result,
            f" ({result.detail})" if result.detail else "",
            extra={"PARBAKE_UNIT": step.unit},
        )
        transaction = journal.record_result(runtime.state.records, transaction, result)
    return transaction


def acted_on_all(transaction: Transaction) -> bool:
    """Return whether every unit has a result."""
    return all(step.unit in transaction.results for step in transaction.steps)


def _act_with_retries(runtime: Runtime, step: UnitStep, *, before_ready: bool) -> UnitResult:
    """Repeat an action that failed on a unit that still runs. A unit that is down is for the rollback."""
    backoff = Backoff(_RETRY_FIRST_SECONDS, _RETRY_LAST_SECONDS, low=0.5)
    result = runtime.units.act(step, before_ready=before_ready)
    for attempt in range(runtime.settings.units.retries):
        repeatable = step.action == UnitAction.COMMAND or runtime.units.state(step.unit).running
        if result.result != UnitOutcome.FAILED or not repeatable or runtime.stopping:
            return result
        seconds = backoff.next_seconds()
        log.warning("unit %s: %s failed, again in %.1f s (%s)", step.unit, step.action, seconds, result.detail)
        runtime.sleep(seconds)
        if runtime.stopping:
            return result
        result = runtime.units.act(step, before_ready=before_ready)
        if result.result == UnitOutcome.OK:
            return replace(result, detail=f"at attempt {attempt + 2}")
    return result


def reapply_unit_actions(
    runtime: Runtime, transaction: Transaction, groups: frozenset[str], *, before_ready: bool
) -> tuple[dict[str, UnitResult], bool]:
    """Act again on the units of groups whose targets were restored.

    Returns the results by unit, and whether all were acted on: a stop ends it.
    """
    results: dict[str, UnitResult] = {}
    for step in transaction.steps:
        if transaction.groups_of(step.unit) & groups:
            if runtime.stopping:
                return results, False
            down = step.action != UnitAction.COMMAND and not runtime.units.state(step.unit).running
            repeated = replace(step, action=UnitAction.RESTART) if down else step
            result = runtime.units.act(repeated, before_ready=before_ready)
            if result.result == UnitOutcome.FAILED and runtime.stopping:
                return results, False
            results[step.unit] = result
    return results, True


def stop_failed_units(runtime: Runtime, units: Iterable[str]) -> tuple[str, ...]:
    """Stop the units of a first generation that did not come up, if the settings say so. Returns those that were stopped."""
    if runtime.settings.units.on_first_failure != "stop":
        return ()
    stopped = tuple(units)
    for unit in stopped:
        runtime.units.stop(unit)
    return stopped
