"""Back to an earlier generation by hand, and held there until `parbake resume`."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from agent.convergence import journal, plan, staging
from agent.convergence.context import World
from agent.convergence.executor import directories, group_of
from agent.convergence.recovery import HOLD, finish, recover, tools_of
from agent.errors import UsageError
from agent.model import Change, ChangeKind
from agent.state import generations
from agent.state.generations import Generation
from agent.status import report
from agent.system import safe_files

log = logging.getLogger("parbake.converge")


def roll_back(world: World, number: int | None, *, wait: bool = True) -> None:
    """Put a kept generation's targets in place, act on the units, hold it. Raises UsageError, ApplyError, StateError."""
    world.state.prepare()
    with world.state.lock(wait=wait, pause=world.pause, stopping=world.stopping):
        world.state.sweep()
        recover(world, before_ready=False)
        wanted = _choose(world, number)
        changes = _changes(world, wanted)
        pending = [change for change in changes if change.pending]
        if pending:
            _put_in_place(world, wanted, changes, pending)
        else:
            world.state.save(HOLD, {"generation": wanted.number})
        world.report.hold = wanted.number
        world.report.generation = wanted.number
        world.report.digest = wanted.digest
        world.report.templates = tuple(
            {"name": name, "target": t["target"], "state": "current", "generation": wanted.number}
            for name, t in wanted.targets.items()
        )
        world.report.set_state(
            "rolled-back", f"held at generation {wanted.number} by `parbake rollback`; `parbake resume` ends it"
        )
        try:
            report.publish(world.report, world.paths)
        except OSError as error:
            log.warning("%s cannot be written: %s", world.paths.status, error.strerror)


def _choose(world: World, number: int | None) -> Generation:
    known = world.generations.all()
    if number is None:
        good = [generation for generation in known if generation.state == generations.APPLIED]
        if len(good) < 2:
            raise UsageError("there is no earlier generation to go back to", hint="`parbake history` lists those there are")
        return good[-2]
    for generation in known:
        if generation.number == number:
            return generation
    raise UsageError(
        f"there is no generation {number}",
        hint=f"kept: {', '.join(str(g.number) for g in known) or 'none'}; see `parbake history`",
    )


def _changes(world: World, wanted: Generation) -> list[Change]:
    content = world.generations.content(wanted.number)
    groups = {template.name: template.group_name for template in world.settings.templates}
    changes = []
    for name in (*groups, *sorted(wanted.targets.keys() - groups.keys())):
        if name not in content or name not in wanted.targets:
            continue  # it was never in place until then
        known = wanted.targets[name]
        old = safe_files.read_target(world.paths, known["target"])
        mode = int(known["mode"], 8)
        same = old is not None and old.content == content[name] and old.mode == mode
        kind = ChangeKind.UNCHANGED if same else ChangeKind.CREATE if old is None else ChangeKind.CONTENT
        changes.append(
            Change(
                name,
                known["target"],
                kind,
                groups.get(name, ""),
                mode,
                known["uid"],
                known["gid"],
                known["secret"],
                content[name],
                old,
            )
        )
    return changes


def _put_in_place(world: World, wanted: Generation, changes: list[Change], pending: list[Change]) -> None:
    templates: dict[str, Any] = {template.name: template for template in world.settings.templates}
    try:
        renames = staging.stage(world.paths, pending, directories(world, pending))
        ours = [templates[c.template] for c in pending if c.template in templates]
        staging.check(world.paths, ours, None, world.run, world.settings.templates)
    except BaseException:
        staging.discard(world.paths, [c.target for c in pending])
        raise
    number = world.generations.next_number()
    started = journal.Transaction(
        number,
        wanted.digest,
        wanted.keys,
        tuple(renames),
        plan.units(world.settings.templates, pending),
        tuple(group_of(world, name, changes, wanted.targets) for name in sorted({c.group for c in pending})),
        hold=wanted.number,
        since=number,
    )
    tools = tools_of(world, None)
    record = replace(
        wanted,
        number=number,
        time=report.now(),
        cause=f"rollback to {wanted.number}",
        targets=generations.targets_of(changes, number, wanted.targets),
        state=generations.PENDING,
        units=(),
        error=None,
    )
    world.generations.record(record, changes)
    done = journal.act(tools, journal.commit(tools, started), before_ready=False)
    world.generations.judge(number, generations.APPLIED, done.results.values())
    world.report.units = finish(world, tools, done, before_ready=False).results
