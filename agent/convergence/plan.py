"""Renderings + the disk as it is -> what changes, and one action a unit. Pure: nothing is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
class Plan:
    """Everything a convergence would do. `waiting` are the groups held up by an error, with that error's text."""

    changes: tuple[Change, ...] = ()
    units: tuple[UnitStep, ...] = ()
    waiting: Mapping[str, str] = None  # type: ignore[assignment]

    @property
    def pending(self) -> bool:
        return any(change.pending for change in self.changes)


def change(
    template: Template,
    rendering: Rendering,
    old: TargetFile | None,
    uid: int | None,
    gid: int | None,
    *,
    rendered_before: bool = False,
) -> Change:
    """What happens to one target. `uid` and `gid` are None where the settings do not state them: an old file's are kept.

    `rendered_before`: the target was put in place with this very content, so that a difference is somebody's edit.

    Raises RenderError where a secret would become readable by everybody.
    """
    mode = template.mode if template.mode is not None else _SECRET_MODE if rendering.secret else _PLAIN_MODE
    if rendering.secret and mode & _WORLD:
        raise RenderError(
            f"template {template.name} reads a secret key, and mode {mode:04o} lets everybody use {template.target}",
            hint='nothing was replaced; give it mode "0640" or "0600"',
        )
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
    if kind in (ChangeKind.CONTENT, ChangeKind.ATTRIBUTES) and rendered_before and template.drift == "report":
        kind = ChangeKind.DRIFTED
    return Change(
        template.name, template.target, kind, template.group_name, mode, uid, gid, rendering.secret, rendering.content, old
    )


def units(templates: Iterable[Template], changes: Iterable[Change]) -> tuple[UnitStep, ...]:
    """One action a unit: the strongest that the changed templates ask for, in the order the units are first named."""
    changed = {c.template for c in changes if c.pending}
    asked: dict[str, list[tuple[UnitAction, str]]] = {}
    commands: dict[str, TemplateUnit] = {}
    for template in templates:
        for unit in template.units:
            asked.setdefault(unit.label, [])
            if unit.command:
                commands.setdefault(unit.label, unit)
            action = UnitAction.COMMAND if unit.command else UnitAction(unit.action)
            if template.name in changed and action != UnitAction.NONE:
                asked[unit.label].append((action, template.name))
    steps = []
    for label, wishes in asked.items():
        names = tuple(name for _, name in wishes)
        if wishes and label in commands:
            steps.append(UnitStep(label, UnitAction.COMMAND, names, commands[label].command, commands[label].timeout))
        elif wishes:
            asked_for = {action for action, _ in wishes}
            # a reload alone starts nothing
            strongest = max(asked_for, key=lambda action: action.strength)
            if asked_for == {UnitAction.START, UnitAction.RELOAD}:
                strongest = UnitAction.RELOAD_OR_RESTART
            steps.append(UnitStep(label, strongest, names))
    return tuple(steps)


def diff(change: Change, config: RunConfig, decoy: str | None = None) -> str:
    """A unified diff with secrets masked. A masked line that changed still shows as changed.

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
        # the old file may hold a secret's earlier value, which nobody knows any more: only its shape is shown
        kept = set(new_lines)
        old_lines = [line if line in kept else _WITHHELD_OLD for line in old_lines]
    return _unified(change, old_lines, new_lines)


def shown_lines(content: bytes, masker: Masker, decoy: str | None) -> list[str]:
    """The lines of a target, masked; those that no line of its masked `decoy` is like are withheld."""
    lines = masker.mask(content.decode("utf-8", "replace")).splitlines(keepends=True)
    if decoy is None:
        return lines
    free = set(decoy.splitlines(keepends=True))
    return [line if line in free else _WITHHELD for line in lines]


def _unified(change: Change, old: list[str], new: list[str]) -> str:
    import difflib  # 6 ms that only a plan needs

    name = change.target.lstrip("/")
    before = "/dev/null" if change.kind == ChangeKind.CREATE else f"a/{name}"
    lines = list(difflib.unified_diff(old, new, before, f"b/{name}"))
    if len(lines) > _DIFF_LINES_MAX:
        lines = [*lines[:_DIFF_LINES_MAX], f"... {len(lines) - _DIFF_LINES_MAX} more lines\n"]
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
