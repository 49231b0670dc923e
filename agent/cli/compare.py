"""`parbake compare ENV ENV`: the same image in two environments, without either."""

from __future__ import annotations

import dataclasses
import difflib
from argparse import ArgumentParser, Namespace
from typing import Any

from agent.cli import plan as plan_command
from agent.cli.output import say, say_json
from agent.convergence import converge, plan
from agent.convergence.context import PlannedConvergence, World, open_world
from agent.keypath import dotted, leaves
from agent.masking.masker import Masker
from agent.paths import Paths
from agent.secret import MASK, Secret
from agent.settings.models import Settings


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("environments", nargs=2, metavar="ENV", help="values of the fact `environment`")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    sides = [_prepare(settings, paths, name) for name in arguments.environments]
    one, two = (prepared for _, prepared in sides)
    keys = _keys(one, two)
    targets = {name: _diff(name, sides, arguments.environments) for name in sorted({*one.renderings, *two.renderings})}
    waiting = {
        f"{e}: {g or 'default'}": str(error)
        for e, p in zip(arguments.environments, (one, two), strict=True)
        for g, error in p.waiting.items()
    }
    if arguments.json:
        say_json({"keys": keys, "targets": targets, "same_build": True, "waiting": waiting})
    else:
        _show(arguments.environments, keys, targets, waiting)
    return 65 if waiting else 0


def _prepare(settings: Settings, paths: Paths, environment: str) -> tuple[World, PlannedConvergence]:
    """The plan of this image where only the environment differs. Last good run config is another environment's: unused."""
    asked = dataclasses.replace(settings, state=dataclasses.replace(settings.state, cache="none"))
    world = open_world(paths, asked)
    try:
        facts = converge.discover_facts(world)
        values = {**facts.values, "environment": environment}
        return world, converge.prepare(world, dataclasses.replace(facts, values=values))
    finally:
        world.close()


def _keys(one: PlannedConvergence, two: PlannedConvergence) -> list[dict[str, Any]]:
    left, right = dict(leaves(one.config.tree)), dict(leaves(two.config.tree))
    absent = object()
    return [
        {"key": dotted(path), "values": [_shown(left.get(path, absent), absent), _shown(right.get(path, absent), absent)]}
        for path in sorted({*left, *right})
        if left.get(path, absent) != right.get(path, absent)
    ]


def _shown(value: Any, absent: object) -> Any:
    return "(absent)" if value is absent else MASK if isinstance(value, Secret) else value


def _diff(name: str, sides: list[tuple[World, PlannedConvergence]], environments: list[str]) -> str:
    masker = Masker(text for _, prepared in sides for text in prepared.config.secret_texts())
    texts = []
    for world, prepared in sides:
        rendering = prepared.renderings.get(name)
        shown = plan_command.decoyed(world, prepared, name) if rendering and rendering.secret else None
        texts.append(plan.shown_lines(rendering.content if rendering else b"", masker, shown))
    return "".join(difflib.unified_diff(texts[0], texts[1], f"{environments[0]}/{name}", f"{environments[1]}/{name}"))


def _show(environments: list[str], keys: list[dict[str, Any]], targets: dict[str, str], waiting: dict[str, str]) -> None:
    for row in keys:
        say(f"{row['key']}: {row['values'][0]!r} in {environments[0]}, {row['values'][1]!r} in {environments[1]}")
    for name, text in targets.items():
        say(text.rstrip() if text else f"{name}: the same in both, or differing in secrets only")
    for name, text in waiting.items():
        say(f"{name} waits: {text}")
    say(f"build config is the same; {len(keys)} keys and {sum(bool(text) for text in targets.values())} targets differ")
