"""Checks that each name in the templates' `units` means one action.

Templates that use the same name share one action per convergence. So a name must not be both a unit that is acted on and a
command, nor two commands: only one of the two would run.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from agent.settings.models import Template, TemplateUnit
from agent.settings.quantities import duration_text
from agent.settings.schema import Problems
from agent.settings.source_lines import Location
from agent.settings.toml_files import RawSettings


@dataclass(frozen=True, slots=True)
class _Use:
    """One entry of a template's `units`."""

    template: str
    unit: TemplateUnit
    location: Location

    def __str__(self) -> str:
        if self.unit.command:
            return f'template "{self.template}" runs the command {shlex.join(self.unit.command)}'
        return f'template "{self.template}" has the action {self.unit.action}'


def check(templates: Iterable[Template], raw: RawSettings, problems: Problems) -> None:
    """Add a problem for each entry of `units` whose name an earlier entry uses for another action.

    The action "none" asks for no action: a unit that has it may share its name with a command.
    """
    first_uses: dict[str, _Use] = {}
    for template in templates:
        location = raw.item_location("template", template.name).key("units")
        for index, unit in enumerate(template.units):
            if not unit.command and unit.action == "none":
                continue
            use = _Use(template.name, unit, location.item(index))
            message = _collision(first_uses.setdefault(unit.label, use), use)
            if message:
                problems.add(use.location, message)


def _collision(first: _Use, second: _Use) -> str:
    """Return the problem of two entries with one name. "" if they are one action."""
    one, two = first.unit, second.unit
    if one.command == two.command:
        if not one.command or one.timeout == two.timeout:
            return ""
        return (
            f'"{one.label}" is one command with two timeouts: {duration_text(one.timeout)} in template "{first.template}", '
            f'{duration_text(two.timeout)} in template "{second.template}"; it runs once, so write the same `timeout` in both'
        )
    if one.command and two.command:
        kinds, remedy = "two commands", "give one of them another `name`"
    else:
        kinds, remedy = "a unit and a command", "give the command another `name`"
    return f'"{one.label}" names {kinds}: {first}, {second}; only one of them would run: {remedy}'
