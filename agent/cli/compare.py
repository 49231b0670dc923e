"""`parbake compare ENV ENV`: the same image rendered for two environments, without being in either."""

from __future__ import annotations

import difflib
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.cli.output import print_json, print_line
from agent.cli.plan import render_decoy
from agent.cli.session import Session, open_session
from agent.convergence import plan
from agent.convergence.context import PlannedConvergence
from agent.convergence.converge import discover_facts, plan_convergence
from agent.keypath import dotted, leaves
from agent.masking.masker import Masker
from agent.paths import Paths
from agent.secret import MASK, Secret
from agent.settings.models import Settings

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class _Side:
    """One environment and what would be done in it."""

    environment: str
    session: Session
    planned: PlannedConvergence


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("environments", nargs=2, metavar="ENV", help="values of the fact `environment`")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    sides = [_plan_side(settings, paths, environment) for environment in arguments.environments]
    keys = _differing_keys(*(side.planned for side in sides))
    names = sorted({name for side in sides for name in side.planned.renderings})
    targets = {name: _diff(name, sides) for name in names}
    waiting = {
        f"{side.environment}: {group or 'default'}": str(error)
        for side in sides
        for group, error in side.planned.waiting.items()
    }
    if arguments.json:
        print_json({"keys": keys, "targets": targets, "same_build": True, "waiting": waiting})
    else:
        _show(arguments.environments, keys, targets, waiting)
    return 65 if waiting else 0


def _plan_side(settings: Settings, paths: Paths, environment: str) -> _Side:
    """Plan with another environment. The last good run config belongs to the real one, so it is not used."""
    uncached = replace(settings, state=replace(settings.state, cache="none"))
    with open_session(paths, uncached) as session:
        facts = discover_facts(session.runtime, session.memory)
        facts = replace(facts, values={**facts.values, "environment": environment})
        planned = plan_convergence(session.runtime, session.memory, session.sources, facts)
    return _Side(environment, session, planned)


def _differing_keys(one: PlannedConvergence, two: PlannedConvergence) -> list[dict[str, Any]]:
    left, right = dict(leaves(one.config.tree)), dict(leaves(two.config.tree))
    return [
        {"key": dotted(path), "values": [_shown(left.get(path, _ABSENT)), _shown(right.get(path, _ABSENT))]}
        for path in sorted({*left, *right})
        if left.get(path, _ABSENT) != right.get(path, _ABSENT)
    ]


def _shown(value: Any) -> Any:
    if value is _ABSENT:
        return "(absent)"
    return MASK if isinstance(value, Secret) else value


def _diff(name: str, sides: Sequence[_Side]) -> str:
    """Return the diff of a target between both sides, secrets masked."""
    masker = Masker(text for side in sides for text in side.planned.config.secret_texts())
    texts = []
    for side in sides:
        rendering = side.planned.renderings.get(name)
        decoy = render_decoy(side.session, side.planned, name) if rendering and rendering.secret else None
        texts.append(plan.shown_lines(rendering.content if rendering else b"", masker, decoy))
    one, two = (f"{side.environment}/{name}" for side in sides)
    return "".join(difflib.unified_diff(texts[0], texts[1], one, two))


def _show(environments: list[str], keys: list[dict[str, Any]], targets: dict[str, str], waiting: dict[str, str]) -> None:
    for row in keys:
        print_line(f"{row['key']}: {row['values'][0]!r} in {environments[0]}, {row['values'][1]!r} in {environments[1]}")
    for name, text in targets.items():
        print_line(text.rstrip() if text else f"{name}: the same in both, or differing in secrets only")
    for name, text in waiting.items():
        print_line(f"{name} waits: {text}")
    differing = sum(bool(text) for text in targets.values())
    print_line(f"build config is the same. Different run config: keys {len(keys)}, targets {differing}.")
