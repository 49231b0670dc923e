"""The candidates of a convergence: those of all groups are staged, then all checks run, before anything is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.convergence import phases, staging
from agent.convergence.checking import check_groups
from agent.convergence.context import GroupError, Runtime, StepTimer
from agent.convergence.journal import Transaction
from agent.convergence.phases import Phase
from agent.errors import ApplyError
from agent.model import Change
from agent.system import safe_files


def stage_and_check(
    runtime: Runtime,
    pending: Sequence[Change],
    waiting: dict[str, GroupError],
    secrets: Sequence[str] | None,
    earlier: Transaction | None = None,
    *,
    all_or_nothing: bool = False,
) -> tuple[list[Change], list[staging.Rename]]:
    """Stage all groups, then check them. Returns the changes of the groups that passed, and their renames.

    The error of any other group is added to `waiting`, and its candidates are removed. `earlier` is a transaction that is not
    confirmed yet: the old files that it has kept stay. With `all_or_nothing` the first error is raised instead.

    Raises StopRequested, or that error, after removing all candidates.
    """
    kept = set(earlier.targets) if earlier else set()
    groups: dict[str, list[Change]] = {}
    for change in pending:
        groups.setdefault(change.group, []).append(change)
    renames: dict[str, list[staging.Rename]] = {}
    try:
        with StepTimer(runtime, "stage") as result:
            for group, changes in groups.items():
                try:
                    renames[group] = staging.stage(runtime.paths, changes, parent_directories(runtime, changes), kept)
                except ApplyError as error:
                    waiting[group] = error
            result.append(f"{sum(map(len, renames.values()))} candidates written" if renames else "nothing to stage")
        phase = phases.advance(Phase.PLANNED, Phase.STAGED)
        with StepTimer(runtime, "check") as result:
            staged = {group: [change.template for change in groups[group]] for group in renames}
            for group, refusal in check_groups(runtime, staged, secrets).items():
                staging.discard(runtime.paths, [rename.target for rename in renames.pop(group)])
                waiting[group] = refusal
            result.append(f"{sum(map(len, renames.values()))} candidates are ready" if renames else "nothing to commit")
        if waiting and all_or_nothing:
            raise next(iter(waiting.values()))
        phases.advance(phase, Phase.CHECKED)
    except BaseException:
        staging.discard(runtime.paths, [change.target for change in pending])
        raise
    # the order of the templates holds between groups too
    order = {template.name: number for number, template in enumerate(runtime.settings.templates)}
    passed = [change for group in renames for change in groups[group]]
    passed.sort(key=lambda change: order.get(change.template, len(order)))
    ordered = sorted(
        (rename for found in renames.values() for rename in found), key=lambda rename: order.get(rename.template, len(order))
    )
    return passed, ordered


def parent_directories(runtime: Runtime, changes: Iterable[Change]) -> dict[str, safe_files.ParentDirectory]:
    """Return how the missing parent directories of each target are made. Raises ApplyError for an unknown owner."""
    targets = {change.target for change in changes}
    directories = {}
    for template in runtime.settings.templates:
        if template.target not in targets:
            continue
        owner, group = template.directory_owner, template.directory_group
        directories[template.target] = safe_files.ParentDirectory(
            template.directory_mode,
            safe_files.owner_id(runtime.paths, owner) if owner else -1,
            safe_files.group_id(runtime.paths, group) if group else -1,
        )
    return directories
