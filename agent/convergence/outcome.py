"""What is kept of a convergence: the memory of the process, the report for status.json, and the exit code."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agent.convergence import quarantine
from agent.convergence.context import GroupError, Memory, PlannedConvergence, Runtime
from agent.convergence.generation_record import in_place
from agent.convergence.plan import AppliedTarget
from agent.errors import RolledBack, UnhealthyAfterApply
from agent.model import Change, ChangeKind, SourceState, UnitAction, UnitOutcome, UnitResult
from agent.status.report import InstanceState, TemplateState

log = logging.getLogger("parbake.converge")
_EXIT_STALE = 75


def remember(
    runtime: Runtime,
    memory: Memory,
    planned: PlannedConvergence,
    changes: Sequence[Change],
    waiting: Collection[str],
) -> None:
    """Keep what was applied, and the last good run config: it kept the contract and was rendered. Raises StateError.

    `changes` are those in place now, `waiting` the groups that wait.
    """
    memory.planned = planned
    memory.applied = {
        change.target: AppliedTarget.of(change.content, change.mode, change.uid, change.gid)
        for change in in_place(planned, changes)
    }
    quarantine.remove(runtime.state.records, {change.group for change in planned.plan.changes if change.group not in waiting})
    if not planned.pulled.fresh or runtime.stopping:
        return
    snapshots = dict(planned.pulled.snapshots)
    fetched = {report.name: report.fetched or "" for report in planned.pulled.reports if report.name in snapshots}
    problem = runtime.state.last_good.save(snapshots, fetched, secret=bool(planned.config.secrets))
    if problem:
        log.warning("the last good run config is not kept, so a boot without the source would fail: %s", problem)


def describe(
    runtime: Runtime,
    memory: Memory,
    planned: PlannedConvergence,
    waiting: Mapping[str, GroupError],
    results: Sequence[UnitResult] = (),
) -> None:
    """Fill the report. A unit that was not acted on now keeps its last result."""
    last = runtime.state.generations.last()
    recorded = last.targets if last else {}
    drifted = {change.template for change in planned.plan.changes if change.kind == ChangeKind.DRIFTED}
    rows = []
    for template in runtime.settings.templates:
        error = waiting.get(template.group_name)
        row: dict[str, Any] = {
            "name": template.name,
            "target": template.target,
            "state": _state_of(error) or (TemplateState.DRIFTED if template.name in drifted else TemplateState.CURRENT),
            "generation": recorded.get(template.name, {}).get("generation", 0),
        }
        if error is not None:
            row["error"] = str(error)
        rows.append(row)
    memory.report.templates = tuple(rows)
    memory.report.digest = planned.digest
    units = {
        u["name"]: UnitResult(u["name"], UnitAction(u["action"]), UnitOutcome(u["result"]))
        for u in (last.units if last else ())
    }
    units.update({result.unit: result for result in (*memory.report.units, *results)})
    memory.report.units = tuple(units.values())


def _state_of(error: GroupError | None) -> TemplateState | None:
    """Return the state of a template whose group waits, or None if it does not."""
    if error is None:
        return None
    return TemplateState.REJECTED if isinstance(error, UnhealthyAfterApply) else TemplateState.WAITING


def conclude(memory: Memory, planned: PlannedConvergence, waiting: Mapping[str, GroupError]) -> int:
    """Set the state of the report and return the exit code."""
    if waiting:
        text = "\n".join(dict.fromkeys(str(error) for error in waiting.values()))
        hints = [error.hint for error in waiting.values() if error.hint]
        rolled_back = all(isinstance(error, RolledBack) for error in waiting.values())
        memory.report.set_state(InstanceState.ROLLED_BACK if rolled_back else InstanceState.FAILED, text)
        # the same reason as before is logged once, and not at every convergence
        level = logging.ERROR if text != memory.last_logged_waiting else logging.DEBUG
        log.log(level, "%s%s", text, f"\nhint: {hints[0]}" if hints else "")
        memory.last_logged_waiting = text
        return max(error.exit_code for error in waiting.values())
    memory.last_logged_waiting = ""
    if planned.pulled.stale:
        errors = [
            f"source {source.name}: {source.error}" for source in planned.pulled.reports if source.state == SourceState.STALE
        ]
        memory.report.set_state(InstanceState.STALE, "; ".join(errors))
        return _EXIT_STALE
    memory.report.set_state(InstanceState.CONVERGED)
    return 0
