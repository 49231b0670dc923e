"""The automatic rollback: groups that do not hold get their earlier targets back, and their units are acted on again.

Everything here can be done again from any point at which it was cut off: the journal is in ROLLING_BACK until all is done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agent.convergence import journal, quarantine, staging
from agent.convergence.context import Memory, Runtime
from agent.convergence.generation_record import applied_number
from agent.convergence.journal import Transaction
from agent.convergence.phases import GENERATION_STATES, Phase
from agent.convergence.quarantine import Rejection
from agent.convergence.unit_actions import reapply_unit_actions, stop_failed_units
from agent.errors import ApplyError, RolledBack, StateError, UnhealthyAfterApply
from agent.state import generations
from agent.state.generations import GenerationState
from agent.system import journal_log

log = logging.getLogger("parbake.converge")


def finish(runtime: Runtime, transaction: Transaction) -> None:
    """End a transaction in CONFIRMED or ROLLED_BACK: the kept old files go, then the journal. Raises StateError."""
    staging.discard(runtime.paths, transaction.targets, backups=True)
    journal.remove(runtime.state.records)
    runtime.state.generations.prune()


def roll_back_commit(runtime: Runtime, memory: Memory, transaction: Transaction, *, before_ready: bool) -> None:
    """Restore the targets of a commit that could not be completed.

    Its own units were not acted on, so they are left alone. If it includes an earlier commit that was not confirmed yet, that
    one is rolled back too, with its units: a group must not be of two generations. Raises ApplyError if a target could not be
    restored, StateError.
    """
    store = runtime.state.generations
    staging.restore_targets(runtime.paths, transaction.renames)
    _forget(memory, transaction, transaction.renames)
    if transaction.since < transaction.generation:
        error = f"generation {transaction.generation}, which included it, could not be committed"
        for number in range(transaction.since, transaction.generation):
            store.set_state(number, GENERATION_STATES[Phase.ROLLED_BACK], error=error)
        _, complete = reapply_unit_actions(runtime, transaction, transaction.group_names, before_ready=before_ready)
        if not complete:
            return
    finish(runtime, journal.enter(runtime.state.records, transaction, Phase.ROLLED_BACK))
    store.drop_pending()


def roll_back_failed_groups(
    runtime: Runtime,
    memory: Memory,
    transaction: Transaction,
    failed: Mapping[str, str],
    units: Sequence[str],
    *,
    before_ready: bool,
) -> dict[str, UnhealthyAfterApply]:
    """Roll back the groups that do not hold, and return their errors.

    `failed` maps a group to the reason. If the journal names no failed group, all groups are rolled back. A group that has
    nothing earlier stays in place, and its units among `units` are stopped. If a stop cuts this off, the journal stays in
    ROLLING_BACK, and the next start does it again.

    Raises UnhealthyAfterApply if no group holds, ApplyError if a target could not be restored.
    """
    everything = not transaction.failed or transaction.hold is not None
    errors = _errors(transaction, failed, everything=everything)
    first = frozenset(group.name for group in transaction.groups if group.first and group.name in failed and not everything)
    rolled_back = (transaction.group_names if everything else frozenset(failed)) - first
    renames = [rename for rename in transaction.renames if everything or rename.group in rolled_back]
    staging.restore_targets(runtime.paths, renames)
    stopped = stop_failed_units(runtime, (unit for unit in units if _belongs_to(runtime, transaction, unit, first)))
    holds = not everything and transaction.group_names > set(failed)
    candidates = [*errors.values(), _error_of_everything(transaction, failed)]
    raised = next((error for error in errors.values() if isinstance(error, RolledBack)), candidates[0])
    remembered = _reject(runtime, transaction, errors, raised, stopped, holds=holds, rolled_back=bool(rolled_back))
    results, complete = reapply_unit_actions(runtime, transaction, rolled_back, before_ready=before_ready)
    memory.report.units = tuple({**transaction.results, **results}.values())
    _forget(memory, transaction, renames)
    if complete and (remembered or rolled_back):
        finish(runtime, journal.enter(runtime.state.records, transaction, Phase.CONFIRMED if holds else Phase.ROLLED_BACK))
    memory.report.generation = applied_number(runtime)
    if not holds:
        raise raised
    for error in errors.values():
        log.error("%s", error, extra=journal_log.event(journal_log.failure_id(error), transaction.generation))
    return errors


def _belongs_to(runtime: Runtime, transaction: Transaction, unit: str, groups: frozenset[str]) -> bool:
    """Return whether only templates of these groups name a unit, whether or not they ask for an action on it."""
    templates = (t for t in runtime.settings.templates if any(entry.label == unit for entry in t.units))
    names = transaction.groups_of(unit) | {transaction.group_of(t.name) for t in templates if t.name in _members(transaction)}
    return bool(names) and names <= groups


def _members(transaction: Transaction) -> frozenset[str]:
    return frozenset(name for group in transaction.groups for name in group.templates)


def _forget(memory: Memory, transaction: Transaction, renames: Iterable[staging.Rename]) -> None:
    """Forget what was remembered of the targets that were restored."""
    for rename in renames:
        memory.applied.pop(rename.target, None)
    if memory.planned is not None and memory.planned.digest == transaction.digest:
        memory.planned = None


def _errors(transaction: Transaction, failed: Mapping[str, str], *, everything: bool) -> dict[str, UnhealthyAfterApply]:
    """Return the error of each group that does not hold."""
    if everything or (set(failed) == transaction.group_names and not any(group.first for group in transaction.groups)):
        return dict.fromkeys(sorted(failed), _error_of_everything(transaction, failed))
    groups = [group for group in transaction.groups if group.name in failed]
    return {group.name: _error_of(transaction, group, failed[group.name]) for group in groups}


def _error_of_everything(transaction: Transaction, failed: Mapping[str, str]) -> UnhealthyAfterApply:
    reason = "; ".join(dict.fromkeys(failed.values())) or "it did not hold, and parbake was stopped while it rolled it back"
    return RolledBack(
        f"generation {transaction.generation} was rolled back: {reason}; keys that changed: {_keys(transaction)}",
        hint=f"its {len(transaction.renames)} targets hold the earlier generation again; {quarantine.HINT}",
    )


def _keys(transaction: Transaction) -> str:
    return ", ".join(transaction.keys) or "none"


def _error_of(transaction: Transaction, group: journal.Group, reason: str) -> UnhealthyAfterApply:
    subject = f"generation {transaction.generation}"
    if len(transaction.groups) > 1:
        subject += f", group {group.name or '(default)'}"
    if group.first:
        return UnhealthyAfterApply(
            f"{subject} did not come up: {reason}",
            hint=f"it is the first, so there is nothing to roll back to; {quarantine.HINT}",
        )
    return RolledBack(
        f"{subject} was rolled back: {reason}; keys that changed: {_keys(transaction)}",
        hint=f"its targets hold what they held before; {quarantine.HINT}",
    )


def _reject(
    runtime: Runtime,
    transaction: Transaction,
    errors: Mapping[str, UnhealthyAfterApply],
    error: UnhealthyAfterApply,
    stopped: Sequence[str],
    *,
    holds: bool,
    rolled_back: bool,
) -> bool:
    """Record what is not tried again. Returns whether it could be: a full disk costs a second try, and never the rollback."""
    records, store = runtime.state.records, runtime.state.generations
    numbers = range(transaction.since, transaction.generation + 1)
    try:
        rejections = quarantine.load(records)
        for group in transaction.groups:
            if group.name in errors:
                units = tuple(unit for unit in stopped if group.name in transaction.groups_of(unit))
                text = str(errors[group.name])
                rejections[group.name] = Rejection(group.digest, transaction.generation, text, group.first, units)
        quarantine.save(records, rejections)
        if holds:
            _record_without(runtime, transaction, errors)
        else:
            state = GENERATION_STATES[Phase.ROLLED_BACK] if rolled_back else GenerationState.FAILED
            for number in numbers:
                store.set_state(number, state, error=str(error))
            store.prune()
    except (StateError, ApplyError) as failure:
        log.error("the rejection of generation %d cannot be recorded: %s", transaction.generation, failure)
        for number in numbers:
            store.drop(number)
        return False
    return True


def _record_without(runtime: Runtime, transaction: Transaction, errors: Mapping[str, UnhealthyAfterApply]) -> None:
    """Record the generation without the groups that failed: their targets are those of the generation before.

    Raises StateError, ApplyError.
    """
    store = runtime.state.generations
    by_number = {generation.number: generation for generation in store.all()}
    current = by_number.pop(transaction.generation, None)
    if current is None:
        return
    applied = [g for g in by_number.values() if g.state == GenerationState.APPLIED and g.number < transaction.since]
    previous = applied[-1].targets if applied else {}
    left_out = {name for group in transaction.groups if group.name in errors for name in group.templates}
    targets = {name: target for name, target in current.targets.items() if name not in left_out}
    targets |= {name: previous[name] for name in left_out if name in previous}
    texts = dict.fromkeys(str(error) for error in errors.values())
    changed = replace(current, targets=targets, error="; ".join(texts))
    on_disk = [generations.read_current(runtime.paths, name, target) for name, target in targets.items()]
    store.record(changed, [change for change in on_disk if change is not None])
