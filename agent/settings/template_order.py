"""The templates in the order their targets are put in place: as written, but each behind those it names in `after`."""

from __future__ import annotations

from agent.settings.models import Template
from agent.settings.schema import Problems, closest


def ordered(templates: tuple[Template, ...], problems: Problems) -> tuple[Template, ...]:
    """A stable topological order; a name that does not exist and a cycle are added to `problems`."""
    known = {template.name: template for template in templates}
    placed: dict[str, Template] = {}

    def place(template: Template, trail: tuple[str, ...]) -> None:
        if template.name in placed:
            return
        if template.name in trail:
            cycle = " -> ".join((*trail[trail.index(template.name) :], template.name))
            problems.add(f'[[template]] "{template.name}"', f"after: goes in a circle: {cycle}")
            return
        for name in template.after:
            if name in known:
                place(known[name], (*trail, template.name))
        placed.setdefault(template.name, template)

    for template in templates:
        for name in template.after:
            if name not in known:
                problems.add(f'[[template]] "{template.name}"', f'after: there is no template "{name}"{closest(name, known)}')
        place(template, ())
    return tuple(placed.values())
