"""What a generation records: every target of the image with what it holds by it, and the keys that changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.convergence.context import Memory, PlannedConvergence, Runtime
from agent.convergence.journal import Transaction
from agent.convergence.phases import GENERATION_STATES, Phase
from agent.errors import ApplyError
from agent.keypath import dotted, leaves, lookup
from agent.model import Change, ChangeKind, RunConfig
from agent.state import generations
from agent.state.generations import Generation, GenerationState
from agent.status import report

_ABSENT = object()


def applied_number(runtime: Runtime) -> int:
    """Return the number of the applied generation, or 0."""
    last = runtime.state.generations.last()
    return last.number if last else 0


def changed_keys(previous: RunConfig | None, planned: PlannedConvergence, changes: Sequence[Change]) -> tuple[str, ...]:
    """Return the names of the keys that differ from the last run config. Without one, those that the templates read."""
    tree = planned.config.tree
    if previous is None:
        renderings = [planned.renderings[c.template] for c in changes if c.template in planned.renderings]
        reads = {path for rendering in renderings for path in rendering.reads}
        return tuple(sorted(dotted(path) for path in reads if path and lookup(tree, path, _ABSENT) is not _ABSENT))
    before, after = dict(leaves(previous.tree)), dict(leaves(tree))
    return tuple(sorted(dotted(path) for path in {*before, *after} if before.get(path, _ABSENT) != after.get(path, _ABSENT)))


def is_recorded(planned: PlannedConvergence, last: Generation | None) -> bool:
    """Return whether the applied generation has what is in place. It has not on a first run, or after a full disk."""
    if last is None:
        return bool(planned.waiting)
    recorded = {name: target["sha256"] for name, target in last.targets.items()}
    targets = in_place(planned, [])
    return all(recorded.get(change.template) == hashlib.sha256(change.content).hexdigest() for change in targets)


def record_generation(
    runtime: Runtime,
    memory: Memory,
    planned: PlannedConvergence,
    changes: Sequence[Change],
    transaction: Transaction,
    cause: str,
    *,
    state: GenerationState = GENERATION_STATES[Phase.COMMITTING],
) -> None:
    """Record a generation with every target of the image, those of waiting groups too. Raises StateError."""
    number = transaction.generation
    last = runtime.state.generations.last()
    baked = {template.name for template in runtime.settings.templates}
    previous = {name: target for name, target in (last.targets if last else {}).items() if name in baked}
    targets = in_place(planned, changes)
    planned_names = {change.template for change in targets}
    waiting = [_read_current(runtime, name, target) for name, target in previous.items() if name not in planned_names]
    now = report.now()
    generation = Generation(
        number,
        now,
        cause,
        planned.digest,
        state,
        transaction.keys,
        {**previous, **generations.targets_of(targets, number, previous, now)},
    )
    runtime.state.generations.record(generation, [*targets, *(change for change in waiting if change is not None)])


def _read_current(runtime: Runtime, name: str, target: Mapping[str, Any]) -> Change | None:
    """Read a target of a waiting group. If it cannot be read, that may be what the group waits for: it stops no other."""
    try:
        return generations.read_current(runtime.paths, name, target)
    except ApplyError:
        return None


def in_place(planned: PlannedConvergence, changes: Sequence[Change]) -> list[Change]:
    """Return every target of the plan with what it holds: the new content if it is among `changes`, else the old one."""
    committed = {change.template for change in changes}
    result = []
    for change in planned.plan.changes:
        if change.template in committed or not change.pending:
            result.append(change)
        elif change.old is not None and change.old.content is not None:
            old = change.old
            content = change.old.content
            result.append(replace(change, kind=ChangeKind.UNCHANGED, content=content, mode=old.mode, uid=old.uid, gid=old.gid))
    return result
