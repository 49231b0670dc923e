"""`parbake plan`"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from agent.cli.output import say, say_json
from agent.convergence import converge, plan
from agent.convergence.context import PlannedConvergence, World, open_world
from agent.convergence.recovery import held
from agent.errors import RenderError
from agent.keypath import dotted, lookup
from agent.masking.masker import Masker
from agent.model import Change
from agent.paths import Paths
from agent.secret import MASK, Secret
from agent.settings.models import Settings
from agent.templates import fake_secrets

_COLOURS = {"+": "\033[32m", "-": "\033[31m", "@": "\033[36m"}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--exit-code", action="store_true", help="exit 2 when something would change")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    world = open_world(paths, settings)
    try:
        prepared = converge.prepare(world, converge.discover_facts(world))
    finally:
        world.close()
    if arguments.json:
        say_json(as_plain(world, prepared))
    else:
        show(world, prepared)
    if prepared.waiting:
        return max(error.exit_code for error in prepared.waiting.values())
    return 2 if arguments.exit_code and prepared.plan.pending and held(world.state) is None else 0


def values(prepared: PlannedConvergence) -> list[dict[str, Any]]:
    """Every key with its provenance; secrets masked."""
    rows = []
    for path, origin in sorted(prepared.config.origins.items()):
        value = lookup(prepared.config.tree, path)
        shown = MASK if isinstance(value, Secret) or _within_secret(prepared, path) else value
        rows.append(
            {
                "key": dotted(path),
                "value": shown,
                "source": origin.source,
                "layer": origin.layer,
                "revision": origin.revision,
                "overrode": [f"{o.source}:{o.layer}" for o in origin.overrode],
            }
        )
    return rows


def _within_secret(prepared: PlannedConvergence, path: tuple[str, ...]) -> bool:
    return any(path[: len(secret)] == secret for secret in prepared.config.secrets)


def diff_of(world: World, prepared: PlannedConvergence, change: Change) -> str:
    """The diff of one target, with no line in it that depends on a secret."""
    shown = decoyed(world, prepared, change.template) if change.pending and change.secret else None
    return plan.diff(change, prepared.config, shown)


def decoyed(world: World, prepared: PlannedConvergence, name: str) -> str:
    """A template rendered with other secrets than there are, and those masked. Where it cannot be, "" has no line to show."""
    config = fake_secrets.of(prepared.config)
    (template,) = (template for template in world.settings.templates if template.name == name)
    try:
        content: bytes = world.renderer.render(template, config, prepared.facts).content
    except RenderError:
        return ""
    return Masker(config.secret_texts()).mask(content.decode("utf-8", "replace"))


def as_plain(world: World, prepared: PlannedConvergence) -> dict[str, Any]:
    hold = held(world.state)
    return {
        "changes": prepared.plan.pending and hold is None,
        "hold": hold,
        "digest": prepared.digest,
        "facts": {name: prepared.facts.values[name] for name in sorted(prepared.facts.values)},
        "providers": dict(prepared.facts.providers),
        "sources": [
            {"name": s.name, "state": s.state, "revision": s.revision, "error": s.error} for s in prepared.pulled.reports
        ],
        "values": values(prepared),
        "targets": [
            {
                "template": c.template,
                "target": c.target,
                "change": c.kind,
                "mode": f"{c.mode:04o}",
                "uid": c.uid,
                "gid": c.gid,
                "diff": diff_of(world, prepared, c),
            }
            for c in prepared.plan.changes
        ],
        "units": [{"name": s.unit, "action": s.action, "templates": list(s.templates)} for s in prepared.plan.units],
        "waiting": {group or "default": str(error) for group, error in prepared.waiting.items()},
    }


def show(world: World, prepared: PlannedConvergence) -> None:
    """The plan for people, in the order things would be done."""
    say("facts:")
    for name, value in sorted(prepared.facts.values.items()):
        say(f"  {name} = {value if isinstance(value, str) else '(table)'}  ({prepared.facts.providers.get(name, '')})")
    for source in prepared.pulled.reports:
        say(f"source {source.name} ({source.backend}): {source.state}{f': {source.error}' if source.error else ''}")
    say("run config:")
    for row in values(prepared):
        over = f", over {', '.join(row['overrode'])}" if row["overrode"] else ""
        say(f"  {row['key']} = {row['value']!r}  ({row['source']}:{row['layer'] or '(top)'}{over})")
    for change in prepared.plan.changes:
        say(f"target {change.target}: {change.kind}, mode {change.mode:04o}")
        if change.pending:
            sys.stdout.write(_coloured(diff_of(world, prepared, change)))
    for step in prepared.plan.units:
        say(f"unit {step.unit}: {step.action}, for {', '.join(step.templates)}")
    for group, error in prepared.waiting.items():
        say(f"group {group or 'default'} waits: {error}")
    if (hold := held(world.state)) is not None:
        say(f"held at generation {hold} by `parbake rollback`: none of this is done until `parbake resume`")
    elif not prepared.plan.pending and not prepared.waiting:
        say("nothing would change")


def _coloured(text: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return "".join(
        f"{_COLOURS[line[0]]}{line.rstrip()}\033[0m\n" if line[:1] in _COLOURS else line
        for line in text.splitlines(keepends=True)
    )
