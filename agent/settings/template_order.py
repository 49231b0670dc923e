"""The order in which targets are put in place: as written, but each template after those that its `after` names."""

from __future__ import annotations

from agent.settings.models import Template
from agent.settings.schema import Problems, closest
from agent.settings.toml_files import RawSettings


def ordered(templates: tuple[Template, ...], raw: RawSettings, problems: Problems) -> tuple[Template, ...]:
    """Return the templates in a stable topological order. A name that does not exist and a cycle are added to `problems`.

    `raw` has the locations, and the names of the templates that have a problem and are not in `templates`.
    """
    by_name = {template.name: template for template in templates}
    done: dict[str, Template] = {}

    def visit(template: Template, trail: tuple[str, ...]) -> None:
        if template.name in done:
            return
        if template.name in trail:
            cycle = " -> ".join((*trail[trail.index(template.name) :], template.name))
            problems.add(
                raw.item_location("template", template.name).key("after"), f"a cycle: {cycle}; remove one of its names"
            )
            return
        for name in template.after:
            if name in by_name:
                visit(by_name[name], (*trail, template.name))
        done.setdefault(template.name, template)

    all_names = raw.items.get("template", {})
    for template in templates:
        for name in template.after:
            if name not in all_names:
                location = raw.item_location("template", template.name).key("after")
                problems.add(location, f'there is no template "{name}"{closest(name, all_names)}')
        visit(template, ())
    return tuple(done.values())
