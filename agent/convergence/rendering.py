"""The templates of an image, rendered. A template whose inputs did not change keeps its rendering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.convergence.context import GroupError, Memory, Runtime
from agent.errors import RenderError
from agent.model import Facts, Rendering, RunConfig

if TYPE_CHECKING:
    from agent.templates.renderer import Renderer


def renderer_of(runtime: Runtime, memory: Memory) -> Renderer:
    """Return the renderer of this process."""
    # Jinja2 costs a third of a short run's time, so it is imported only if there is a template to render
    from agent.templates.renderer import Renderer

    if memory.renderer is None:
        memory.renderer = Renderer(runtime.paths, runtime.settings.component, runtime.settings.templates)
    return memory.renderer


def render_templates(
    runtime: Runtime, memory: Memory, config: RunConfig, facts: Facts
) -> tuple[dict[str, Rendering], dict[str, GroupError], int]:
    """Return the renderings by template, the error of each group that cannot be rendered, and how many were rendered."""
    if not runtime.settings.templates:
        return {}, {}, 0
    from agent.templates.renderer import inputs_unchanged

    previous = memory.planned
    renderings: dict[str, Rendering] = {}
    errors: dict[str, list[RenderError]] = {}
    rendered = 0
    for template in runtime.settings.templates:
        runtime.raise_if_stopping()
        kept = previous.renderings.get(template.name) if previous else None
        if kept and previous and inputs_unchanged(kept, previous.config, config, previous.facts, facts):
            renderings[template.name] = kept
            continue
        try:
            renderings[template.name] = renderer_of(runtime, memory).render(template, config, facts)
            rendered += 1
        except RenderError as error:
            errors.setdefault(template.group_name, []).append(error)
    return renderings, {group: _combined(found) for group, found in errors.items()}, rendered


def _combined(errors: Sequence[RenderError]) -> RenderError:
    if len(errors) == 1:
        return errors[0]
    return RenderError(
        f"{len(errors)} templates cannot be rendered",
        [str(error).replace("\n", "\n  ") for error in errors],
        hint=errors[0].hint,
    )
