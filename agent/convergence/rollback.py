"""`parbake rollback`: an earlier generation is applied through the executor, and held until `parbake resume`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from agent.convergence.candidates import stage_and_check
from agent.convergence.context import GroupError, Memory, Runtime
from agent.convergence.executor import apply_transaction, group_of
from agent.convergence.hold import hold_generation, hold_text
from agent.convergence.journal import Transaction
from agent.convergence.phases import GENERATION_STATES, Phase
from agent.convergence.plan import unit_steps
from agent.convergence.recovery import recover
from agent.errors import UsageError
from agent.model import Change, ChangeKind
from agent.state import generations
from agent.state.generations import Generation, GenerationState
from agent.status import report
from agent.status.report import InstanceState, TemplateState
from agent.system import safe_files

log = logging.getLogger("parbake.converge")


def roll_back_to(runtime: Runtime, memory: Memory, number: int | None, *, wait: bool = True) -> None:
    """Apply a kept generation and hold it. `number` None is the generation before the applied one.

    Raises UsageError if there is no such generation, CheckError if a check refuses it, ApplyError if it does not come up (what
    was there before is restored), StateError.
    """
    runtime.state.prepare()
    with runtime.state.lock(wait=wait, sleep=runtime.sleep, stopping=runtime.stop.is_set):
        runtime.state.sweep()
        recover(runtime, memory, before_ready=False)
        wanted = _choose(runtime, number)
        changes = _changes(runtime, wanted)
        pending = [change for change in changes if change.pending]
        if pending:
            _apply(runtime, memory, wanted, changes, pending)
        else:
            hold_generation(runtime.state.records, wanted.number)
        _describe(memory, wanted)
        try:
            report.publish(memory.report, runtime.paths)
        except OSError as error:
            log.warning("%s cannot be written: %s", runtime.paths.status, error.strerror)


def _choose(runtime: Runtime, number: int | None) -> Generation:
    kept = runtime.state.generations.all()
    if number is None:
        applied = [generation for generation in kept if generation.state == GenerationState.APPLIED]
        if len(applied) < 2:
            raise UsageError("there is no earlier generation to roll back to", hint="`parbake history` lists the generations")
        return applied[-2]
    for generation in kept:
        if generation.number == number:
            return generation
    raise UsageError(
        f"there is no generation {number}",
        hint=f"kept: {', '.join(str(generation.number) for generation in kept) or 'none'}; see `parbake history`",
    )


def _changes(runtime: Runtime, wanted: Generation) -> list[Change]:
    """Return a generation's targets as changes of the present ones. A template without a target in it is left out."""
    content = runtime.state.generations.content(wanted.number)
    groups = {template.name: template.group_name for template in runtime.settings.templates}
    changes = []
    for name in (*groups, *sorted(wanted.targets.keys() - groups.keys())):
        if name not in content or name not in wanted.targets:
            continue
        recorded = wanted.targets[name]
        old = safe_files.read_target(runtime.paths, recorded["target"])
        mode = int(recorded["mode"], 8)
        same = old is not None and old.content == content[name] and old.mode == mode
        changes.append(
            Change(
                name,
                recorded["target"],
                ChangeKind.UNCHANGED if same else ChangeKind.CREATE if old is None else ChangeKind.CONTENT,
                groups.get(name, ""),
                mode,
                recorded["uid"],
                recorded["gid"],
                recorded["secret"],
                content[name],
                old,
            )
        )
    return changes


def _apply(runtime: Runtime, memory: Memory, wanted: Generation, changes: Sequence[Change], pending: Sequence[Change]) -> None:
    """Raises CheckError, ApplyError, StateError."""
    waiting: dict[str, GroupError] = {}
    _, renames = stage_and_check(runtime, pending, waiting, None, all_or_nothing=True)
    number = runtime.state.generations.next_number()
    transaction = Transaction(
        number,
        wanted.digest,
        wanted.keys,
        tuple(renames),
        unit_steps(runtime.settings.templates, pending),
        tuple(group_of(runtime, name, changes, wanted.targets) for name in sorted({c.group for c in pending})),
        hold=wanted.number,
        since=number,
    )

    def record(started: Transaction) -> None:
        generation = replace(
            wanted,
            number=number,
            time=report.now(),
            cause=f"rollback to {wanted.number}",
            targets=generations.targets_of(changes, number, wanted.targets),
            state=GENERATION_STATES[Phase.COMMITTING],
            units=(),
            error=None,
        )
        runtime.state.generations.record(generation, changes)

    apply_transaction(runtime, memory, transaction, None, None, record, before_ready=False)


def _describe(memory: Memory, wanted: Generation) -> None:
    memory.report.hold = wanted.number
    memory.report.generation = wanted.number
    memory.report.digest = wanted.digest
    memory.report.templates = tuple(
        {"name": name, "target": target["target"], "state": TemplateState.CURRENT, "generation": wanted.number}
        for name, target in wanted.targets.items()
    )
    memory.report.set_state(InstanceState.ROLLED_BACK, hold_text(wanted.number))
