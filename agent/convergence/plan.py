"""Renderings and the current targets -> what changes, and one action for each unit. Pure: nothing is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from agent.convergence.quarantine import Rejection
from agent.errors import RenderError
from agent.masking.masker import Masker
from agent.model import Change, ChangeKind, Rendering, RunConfig, TargetFile, UnitAction, UnitStep
from agent.settings.models import Template, TemplateUnit

_PLAIN_MODE, _SECRET_MODE = 0o644, 0o600
_WORLD = 0o007
_DIFF_LINES_MAX = 400
_WITHHELD = "(a line that depends on a secret, withheld)\n"
_WITHHELD_OLD = "(a line of the old file, withheld: it may hold an earlier secret)\n"


@dataclass(frozen=True, slots=True)
class AppliedTarget:
    """What a target was given when it was put in place."""

    sha256: str
    mode: int
    uid: int
    gid: int

    @classmethod
    def of(cls, content: bytes, mode: int, uid: int, gid: int) -> AppliedTarget:
        return cls(hashlib.sha256(content).hexdigest(), mode, uid, gid)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a convergence would do."""

    changes: tuple[Change, ...] = ()
    units: tuple[UnitStep, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether a target would change."""
        return any(change.pending for change in self.changes)


def plan_change(
    template: Template,
    rendering: Rendering,
    old: TargetFile | None,
    uid: int | None,
    gid: int | None,
    *,
    applied: AppliedTarget | None = None,
) -> Change:
    """Return what happens to one target.

    `uid` and `gid` are None if the settings do not state them: those of the old file are kept. `applied` is what this process
    put in place: if it is what the target is to hold now, a difference is an edit by hand.

    Raises RenderError if a secret would become readable by every user.
    """
    mode = template.mode if template.mode is not None else _SECRET_MODE if rendering.secret else _PLAIN_MODE
    if rendering.secret and mode & _WORLD:
        raise RenderError(
            f"template {template.name} reads a secret key, and mode {mode:04o} lets every user read {template.target}",
            hint='nothing was replaced; give it mode "0640" or "0600"',
        )
    owner_kept, group_kept = uid is None, gid is None
    uid = uid if uid is not None else old.uid if old else 0
    gid = gid if gid is not None else old.gid if old else 0
    if old is None:
        kind = ChangeKind.CREATE
    elif old.content != rendering.content:
        kind = ChangeKind.CONTENT
    elif (old.mode, old.uid, old.gid) != (mode, uid, gid):
        kind = ChangeKind.ATTRIBUTES
    else:
        kind = ChangeKind.UNCHANGED
    edited = applied is not None and applied == AppliedTarget.of(
        rendering.content, mode, applied.uid if owner_kept else uid, applied.gid if group_kept else gid
    )
    if kind in (ChangeKind.CONTENT, ChangeKind.ATTRIBUTES) and edited and template.drift == "report":
        kind = ChangeKind.DRIFTED
    return Change(
        template.name, template.target, kind, template.group_name, mode, uid, gid, rendering.secret, rendering.content, old
    )


def unit_steps(
    templates: Sequence[Template], changes: Iterable[Change], rejections: Collection[Rejection] = ()
) -> tuple[UnitStep, ...]:
    """Return one action for each unit: the strongest that the changed templates ask for, in the order of the settings.

    `rejections` are those of groups that are applied now. A unit that was stopped because its first config failed is
    restarted with the new one, or with the same one if that is tried again.
    """
    stopped = {unit for rejection in rejections for unit in rejection.stopped}
    retried = {unit for rejection in rejections if rejection.retry for unit in rejection.stopped}
    steps = {step.unit: step for step in _steps_of_changes(templates, changes)}
    for label in dict.fromkeys(unit.label for template in templates for unit in template.units):
        if label in retried and label not in steps:
            names = tuple(t.name for t in templates if any(unit.label == label for unit in t.units))
            steps[label] = UnitStep(label, UnitAction.RESTART, names)
    return tuple(replace(step, action=UnitAction.RESTART) if step.unit in stopped else step for step in steps.values())


def _steps_of_changes(templates: Iterable[Template], changes: Iterable[Change]) -> Iterator[UnitStep]:
    changed = {change.template for change in changes if change.pending}
    requests: dict[str, list[tuple[UnitAction, str]]] = {}
    commands: dict[str, TemplateUnit] = {}
    for template in templates:
        for unit in template.units:
            requests.setdefault(unit.label, [])
            if unit.command:
                commands.setdefault(unit.label, unit)
            action = UnitAction.COMMAND if unit.command else UnitAction(unit.action)
            if template.name in changed and action != UnitAction.NONE:
                requests[unit.label].append((action, template.name))
    for label, requested in requests.items():
        names = tuple(name for _, name in requested)
        if requested and label in commands:
            yield UnitStep(label, UnitAction.COMMAND, names, commands[label].command, commands[label].timeout)
        elif requested:
            actions = {action for action, _ in requested}
            # a reload alone starts nothing
            both = actions == {UnitAction.START, UnitAction.RELOAD}
            strongest = UnitAction.RELOAD_OR_RESTART if both else max(actions, key=lambda action: action.strength)
            yield UnitStep(label, strongest, names)


def diff(change: Change, config: RunConfig, decoy: str | None = None) -> str:
    """Return a unified diff with secrets masked. A masked line that changed still shows as changed.

    `decoy` is the rendering with other secrets, masked (see `templates.fake_secrets`). A line that differs from all of its
    lines depends on a secret in a form that masking does not know: it is withheld.
    """
    if not change.pending:
        return ""
    masker = Masker(config.secret_texts())
    before = change.old.content if change.old and change.old.content is not None else b""
    if change.kind == ChangeKind.ATTRIBUTES and change.old:
        old = change.old
        return (
            f"{change.target}: mode {old.mode:04o} -> {change.mode:04o}, "
            f"owner {old.uid}:{old.gid} -> {change.uid}:{change.gid}\n"
        )
    if b"\0" in before + change.content:
        return f"{change.target}: binary, {len(before)} -> {len(change.content)} bytes\n"
    # masked as a whole, since a secret may span lines
    new_lines, old_lines = shown_lines(change.content, masker, decoy), shown_lines(before, masker, None)
    if change.secret or (change.old and not change.old.mode & _WORLD):
        # the old file may hold an earlier value of a secret, which is not known any more: only the shape is shown
        unchanged = set(new_lines)
        old_lines = [line if line in unchanged else _WITHHELD_OLD for line in old_lines]
    return _unified(change, old_lines, new_lines)


def shown_lines(content: bytes, masker: Masker, decoy: str | None) -> list[str]:
    """Return the lines of a target, masked. With a `decoy`, a line that the decoy does not have is withheld."""
    lines = masker.mask(content.decode("utf-8", "replace")).splitlines(keepends=True)
    if decoy is None:
        return lines
    independent = set(decoy.splitlines(keepends=True))
    return [line if line in independent else _WITHHELD for line in lines]


def _unified(change: Change, old: list[str], new: list[str]) -> str:
    import difflib  # costs 6 ms, and only a plan needs it

    name = change.target.lstrip("/")
    before = "/dev/null" if change.kind == ChangeKind.CREATE else f"a/{name}"
    lines = list(difflib.unified_diff(old, new, before, f"b/{name}"))
    if len(lines) > _DIFF_LINES_MAX:
        lines = [*lines[:_DIFF_LINES_MAX], f"... {len(lines) - _DIFF_LINES_MAX} more lines\n"]
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
