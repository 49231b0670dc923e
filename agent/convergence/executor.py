"""Applies a plan: stage, check, commit, act on units, verify; then confirm it, or roll back what does not hold.

`apply_plan` applies what a convergence has planned. `parbake rollback` applies an earlier generation through the same steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.convergence import group_rollback, health, journal, mask, quarantine, staging
from agent.convergence.candidates import stage_and_check
from agent.convergence.context import Memory, PlannedConvergence, Runtime, StepTimer
from agent.convergence.generation_record import changed_keys, is_recorded, record_generation
from agent.convergence.hold import hold_generation, hold_text
from agent.convergence.journal import Group, Transaction
from agent.convergence.outcome import conclude, describe, remember
from agent.convergence.phases import GENERATION_STATES, Phase
from agent.convergence.plan import unit_steps
from agent.convergence.unit_actions import act, acted_on_all
from agent.errors import ApplyError, RolledBack, StateError, UnhealthyAfterApply
from agent.model import Change, UnitOutcome, UnitResult
from agent.status.report import InstanceState
from agent.system.units import shutting_down

log = logging.getLogger("parbake.converge")


@dataclass(frozen=True, slots=True)
class Applied:
    """The results of the units, and the error of each group that does not hold. The other groups do."""

    results: tuple[UnitResult, ...] = ()
    failed: Mapping[str, UnhealthyAfterApply] = field(default_factory=dict)


def apply_plan(runtime: Runtime, memory: Memory, planned: PlannedConvergence, *, cause: str, before_ready: bool = False) -> int:
    """Apply a plan, record it, and return the exit code. Fills `memory.report`. Raises ParbakeError."""
    mask.write_mask(runtime, memory, planned.config)
    report = memory.report
    if report.hold is not None:
        report.generation = int(report.hold)
        describe(runtime, memory, planned, {})
        report.set_state(InstanceState.ROLLED_BACK, hold_text(report.hold))
        return 0
    waiting = dict(planned.waiting)
    secrets = planned.config.secret_texts()
    earlier = journal.load(runtime.state.records)
    pending = [change for change in planned.plan.changes if change.pending]
    changes, renames = stage_and_check(runtime, pending, waiting, secrets, earlier)
    transaction = _transaction(runtime, memory, planned, changes, renames)
    if not changes and not transaction.steps:
        last = runtime.state.generations.last()
        report.generation = last.number if last else 0
        if not is_recorded(planned, last):
            record_generation(runtime, memory, planned, changes, transaction, cause, state=GENERATION_STATES[Phase.CONFIRMED])
            report.generation = transaction.generation
        applied = Applied()
    else:

        def record(started: Transaction) -> None:
            record_generation(runtime, memory, planned, changes, started, cause)

        try:
            applied = apply_transaction(runtime, memory, transaction, earlier, secrets, record, before_ready=before_ready)
        except ApplyError as error:
            describe(runtime, memory, planned, {**waiting, **dict.fromkeys((change.group for change in changes), error)})
            raise
    waiting |= applied.failed
    rolled_back = {group for group, error in applied.failed.items() if isinstance(error, RolledBack)}
    remember(runtime, memory, planned, [change for change in changes if change.group not in rolled_back], waiting)
    describe(runtime, memory, planned, waiting, applied.results)
    return conclude(memory, planned, waiting)


def _transaction(
    runtime: Runtime,
    memory: Memory,
    planned: PlannedConvergence,
    changes: Sequence[Change],
    renames: Sequence[staging.Rename],
) -> Transaction:
    rejections = quarantine.load(runtime.state.records)
    active = [rejection for group, rejection in rejections.items() if group not in planned.waiting]
    names = {change.group for change in changes}
    names |= {group for group, rejection in rejections.items() if rejection.retry and group not in planned.waiting}
    last = runtime.state.generations.last()
    previous = last.targets if last else {}
    number = runtime.state.generations.next_number()
    return Transaction(
        number,
        planned.digest,
        changed_keys(memory.planned.config if memory.planned else None, planned, changes),
        tuple(renames),
        unit_steps(runtime.settings.templates, changes, active),
        tuple(group_of(runtime, name, planned.plan.changes, previous) for name in sorted(names)),
        since=number,
    )


def group_of(runtime: Runtime, name: str, changes: Iterable[Change], previous: Collection[str]) -> Group:
    """Return what a group is to hold. `previous` are the templates with a target in the generation before."""
    templates = [template for template in runtime.settings.templates if template.group_name == name]
    names = tuple(template.name for template in templates)
    first = not any(template in previous for template in names)
    return Group(name, quarantine.digest_of(templates, changes), first, names)


def apply_transaction(
    runtime: Runtime,
    memory: Memory,
    transaction: Transaction,
    earlier: Transaction | None,
    secrets: Sequence[str] | None,
    record: Callable[[Transaction], None],
    *,
    before_ready: bool,
) -> Applied:
    """Commit a checked transaction, act on the units, and verify it. `record` records its generation.

    Raises ApplyError if a target cannot be replaced or no group holds, StateError.
    """
    if earlier is not None:
        transaction = journal.merge_unconfirmed(earlier, transaction)
    with StepTimer(runtime, "commit") as result:
        transaction = commit(runtime, transaction, earlier, record)
        result.append(f"{len(transaction.renames)} targets replaced, generation {transaction.generation}")
    with StepTimer(runtime, "units") as result:
        transaction = act(runtime, transaction, before_ready=before_ready)
        actions = ", ".join(f"{r.unit} {r.action}: {r.result}" for r in transaction.results.values())
        result.append(actions or "none to act on")
    return continue_after_actions(runtime, memory, transaction, secrets, before_ready=before_ready)


def commit(
    runtime: Runtime, transaction: Transaction, earlier: Transaction | None, record: Callable[[Transaction], None]
) -> Transaction:
    """Record the generation, write the journal, and rename. Returns the committed transaction.

    Raises StateError if nothing was replaced, ApplyError after everything that was replaced is rolled back.
    """
    records = runtime.state.records
    try:
        record(transaction)
    except StateError:
        staging.discard(runtime.paths, transaction.targets)
        raise
    try:
        entered = journal.enter(records, transaction, Phase.COMMITTING)
    except StateError:
        # The journal may be there and only not durable. It must not be found without its candidates.
        if earlier is None:
            journal.remove(records)
        else:
            journal.save(records, earlier)
        staging.discard(runtime.paths, transaction.targets)
        raise
    return rename_candidates(runtime, entered)


def rename_candidates(runtime: Runtime, transaction: Transaction) -> Transaction:
    """Make the renames of a transaction in COMMITTING that are missing, and return it in COMMITTED.

    Raises ApplyError after everything that was replaced is rolled back.
    """
    records = runtime.state.records
    try:
        staging.commit(runtime.paths, transaction.renames)
    except ApplyError:
        group_rollback.roll_back_commit(runtime, journal.enter(records, transaction, Phase.ROLLING_BACK))
        raise
    committed = journal.enter(records, transaction, Phase.COMMITTED)
    for rename in transaction.renames:
        if rename.sha256:  # the others were replaced by an earlier commit that this one includes
            verb = "created" if rename.created else "replaced"
            log.info("target %s: %s", rename.target, verb, extra={"PARBAKE_TARGET": rename.target})
    return committed


def continue_after_actions(
    runtime: Runtime, memory: Memory, transaction: Transaction, secrets: Sequence[str] | None, *, before_ready: bool
) -> Applied:
    """Go on with a committed transaction once its units were acted on: verify it, or leave it until READY or the next start.

    Raises UnhealthyAfterApply if no group holds, ApplyError if a target could not be restored.
    """
    memory.report.generation = transaction.generation
    memory.report.units = tuple(transaction.results.values())
    if not acted_on_all(transaction):
        log.warning("generation %d: parbake stops; the next start acts on the remaining units", transaction.generation)
        return Applied(memory.report.units)
    records = runtime.state.records
    if transaction.awaits_start and before_ready:
        if transaction.phase != Phase.AWAITING_START:
            transaction = journal.enter(records, transaction, Phase.AWAITING_START, results=transaction.results)
    elif transaction.phase == Phase.COMMITTED:
        transaction = journal.enter(records, transaction, Phase.ACTED)
    state = GENERATION_STATES[transaction.phase]
    runtime.state.generations.set_state(transaction.generation, state, transaction.results.values())
    if transaction.phase == Phase.AWAITING_START and before_ready:
        return Applied(memory.report.units)
    return verify_and_confirm(runtime, memory, transaction, secrets, before_ready=before_ready)


def verify_and_confirm(
    runtime: Runtime, memory: Memory, transaction: Transaction, secrets: Sequence[str] | None, *, before_ready: bool
) -> Applied:
    """Verify a transaction, confirm the groups that hold, and roll back those that do not.

    A stop leaves it unjudged: the next start verifies it. Raises UnhealthyAfterApply if no group holds, ApplyError if a target
    could not be restored.
    """
    records = runtime.state.records
    if transaction.awaits_start:
        transaction = health.await_start(runtime, transaction)
    if transaction.phase != Phase.VERIFYING:
        transaction = journal.enter(records, transaction, Phase.VERIFYING)
    memory.report.units = tuple(transaction.results.values())
    with StepTimer(runtime, "verify") as result:
        problems = health.verify(runtime, transaction, secrets)
        acted = any(action.result == UnitOutcome.OK for action in transaction.results.values())
        fine = "the units are up" if acted else "no unit to wait for"
        result.append("; ".join(dict.fromkeys(problem.text for problem in problems)) or fine)
    if runtime.stopping or (problems and shutting_down(runtime.units)):
        log.warning("generation %d is not judged while parbake stops; the next start verifies it", transaction.generation)
        return Applied(memory.report.units)
    if not problems:
        if transaction.hold is not None:
            hold_generation(records, transaction.hold)
        quarantine.remove(records, transaction.group_names)
        transaction = journal.enter(records, transaction, Phase.CONFIRMED)
        group_rollback.finish(runtime, transaction)
        return Applied(memory.report.units)
    failed = _reasons(transaction, problems)
    units = tuple(dict.fromkeys(unit for problem in problems for unit in problem.units))
    transaction = journal.fail(records, transaction, failed)
    errors = group_rollback.roll_back_failed_groups(runtime, memory, transaction, failed, units, before_ready=before_ready)
    return Applied(memory.report.units, errors)


def _reasons(transaction: Transaction, problems: Sequence[health.Problem]) -> dict[str, str]:
    """Return why each failed group does not hold. A generation of `parbake rollback` holds as a whole or not at all."""
    names = transaction.group_names
    everything = "; ".join(dict.fromkeys(problem.text for problem in problems))
    failed = names if transaction.hold is not None else {group for p in problems for group in p.groups or names}
    return {
        group: "; ".join(dict.fromkeys(p.text for p in problems if group in (p.groups or names))) or everything
        for group in sorted(failed)
    }
