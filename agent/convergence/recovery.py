"""The start after a crash: the unfinished convergence is finished before anything else is done.

The journal holds the phase that it had reached. `CONTINUATIONS` in `phases` says what is done in each; this module does it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from agent.convergence import group_rollback, health, journal, journal_upgrade, staging
from agent.convergence.context import Memory, Runtime
from agent.convergence.executor import continue_after_actions, rename_candidates
from agent.convergence.journal import Transaction
from agent.convergence.phases import Phase
from agent.convergence.unit_actions import act
from agent.errors import UnhealthyAfterApply
from agent.system import journal_log

log = logging.getLogger("parbake.converge")


def recover(runtime: Runtime, memory: Memory, *, before_ready: bool) -> None:
    """Finish an unfinished convergence, and log if it does not hold: the next convergence goes on all the same.

    Raises ApplyError, StateError.
    """
    try:
        resume(runtime, memory, before_ready=before_ready)
    except UnhealthyAfterApply as error:
        log.error("%s", error, extra=journal_log.event(journal_log.failure_id(error), memory.report.generation))


def resume(runtime: Runtime, memory: Memory, *, before_ready: bool) -> Mapping[str, UnhealthyAfterApply]:
    """Finish an unfinished convergence. Returns the errors of the groups that do not hold.

    Raises UnhealthyAfterApply if no group holds, ApplyError if a target cannot be replaced or restored, StateError.
    """
    records = runtime.state.records
    journal_upgrade.upgrade(records)
    transaction = journal.load(records)
    if transaction is None:
        # a run that was killed before its journal, or could not clean up after it, leaves candidates and old files
        staging.discard(runtime.paths, [template.target for template in runtime.settings.templates], backups=True)
        runtime.state.generations.drop_pending()
        return {}
    if transaction.phase in (Phase.CONFIRMED, Phase.ROLLED_BACK):
        group_rollback.finish(runtime, transaction)
        return {}
    if transaction.phase == Phase.ROLLING_BACK:
        return _resume_rollback(runtime, memory, transaction, before_ready=before_ready)
    if transaction.phase != Phase.AWAITING_START:
        log.warning("finishing generation %d, in which an earlier run was stopped", transaction.generation)
    if transaction.phase == Phase.COMMITTING:
        transaction = rename_candidates(runtime, memory, transaction, before_ready=before_ready)
    transaction = act(runtime, transaction, before_ready=before_ready)
    if before_ready:
        transaction = health.with_units_not_started(runtime, transaction)
    return continue_after_actions(runtime, memory, transaction, _secrets(memory, transaction), before_ready=before_ready).failed


def _resume_rollback(
    runtime: Runtime, memory: Memory, transaction: Transaction, *, before_ready: bool
) -> Mapping[str, UnhealthyAfterApply]:
    log.warning("rolling back generation %d, in which an earlier run was stopped", transaction.generation)
    if transaction.previous == Phase.COMMITTING:
        group_rollback.roll_back_commit(runtime, memory, transaction, before_ready=before_ready)
        return {}
    units = [step.unit for step in transaction.steps if not step.command]
    return group_rollback.roll_back_failed_groups(
        runtime, memory, transaction, transaction.failed, units, before_ready=before_ready
    )


def _secrets(memory: Memory, transaction: Transaction) -> tuple[str, ...] | None:
    """Return the secrets that the output of a transaction's programs may hold, or None if they are not known."""
    planned = memory.planned
    return planned.config.secret_texts() if planned is not None and planned.digest == transaction.digest else None


def confirm_started(runtime: Runtime, memory: Memory) -> bool:
    """After READY: verify what could not be verified before, because systemd had yet to start the units.

    Returns whether every group holds. Raises ApplyError if none does.
    """
    with runtime.state.lock(sleep=runtime.sleep, stopping=runtime.stop.is_set):
        return not resume(runtime, memory, before_ready=False)
