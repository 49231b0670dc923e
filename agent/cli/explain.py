"""`parbake explain KEY`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from agent.cli.output import say, say_json
from agent.convergence import converge
from agent.convergence.context import PlannedConvergence, open_world
from agent.errors import UsageError
from agent.keypath import KeyPath, dotted, lookup, segments
from agent.paths import Paths
from agent.secret import MASK, Secret
from agent.settings.models import Settings
from agent.settings.schema import closest


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="such as db.password; a table explains every key below it")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    world = open_world(paths, settings)
    try:
        prepared = converge.prepare(world, converge.discover_facts(world))
    finally:
        world.close()
    asked = segments(arguments.key)
    matching = sorted(path for path in prepared.config.origins if path[: len(asked)] == asked)
    if not matching:
        raise _unknown(arguments.key, asked, prepared, settings)
    found = [_explained(path, prepared, settings) for path in matching]
    if arguments.json:
        say_json(found if len(found) > 1 else found[0])
    else:
        for item in found:
            _show(item)
    return 0


def _unknown(key: str, asked: KeyPath, prepared: PlannedConvergence, settings: Settings) -> UsageError:
    origins = prepared.config.origins
    looked = "; ".join(
        f"{name}: {', '.join(layer.name or '(top)' for layer in snapshot.layers)}"
        for name, snapshot in prepared.pulled.snapshots
    )
    hint = f"looked in {looked or 'no source'}"
    if asked in settings.keys:
        return UsageError(f"{key} is declared, is not required, and is in no layer", hint=hint)
    around = next((asked[:length] for length in range(1, len(asked)) if asked[:length] in origins), None)
    if around is not None:
        return UsageError(f"{key} is in no layer: {dotted(around)} is a value, with nothing below it", hint=hint)
    near = closest(key, [dotted(path) for path in origins])
    return UsageError(f"{key} is in no layer and not declared{near if 'did you mean' in near else ''}", hint=hint)


def _explained(path: KeyPath, prepared: PlannedConvergence, settings: Settings) -> dict[str, Any]:
    origin = prepared.config.origins[path]
    value = lookup(prepared.config.tree, path)
    declared = settings.keys.get(path)
    names = [name for name, r in prepared.renderings.items() if any(path[: len(read)] == read for read in r.reads)]
    return {
        "key": dotted(path),
        "value": MASK if isinstance(value, Secret) else value,
        "secret": isinstance(value, Secret),
        "type": declared.type if declared else "undeclared",
        "description": declared.description if declared else "",
        "source": origin.source,
        "layer": origin.layer,
        "revision": origin.revision,
        "stale": next((r.error or "" for r in prepared.pulled.reports if r.name == origin.source and r.state == "stale"), None),
        "overrode": [{"source": o.source, "layer": o.layer, "revision": o.revision} for o in origin.overrode],
        "templates": names,
        "units": sorted({u.label for t in settings.templates if t.name in names for u in t.units}),
    }


def _show(item: dict[str, Any]) -> None:
    value = item["value"] if item["secret"] else repr(item["value"])
    say(f"{item['key']} = {value}  ({item['type']}{', secret' if item['secret'] else ''})")
    if item["description"]:
        say(f"  {item['description']}")
    say(f"  from source {item['source']}, layer {item['layer'] or '(top)'}{_revision(item)}")
    if item["stale"] is not None:
        say(f"  which is stale: this is the last good value, since {item['stale']}")
    for earlier in item["overrode"]:
        say(f"  over source {earlier['source']}, layer {earlier['layer'] or '(top)'}{_revision(earlier)}")
    say(f"  read by templates: {', '.join(item['templates']) or 'none'}")
    say(f"  picked up by units: {', '.join(item['units']) or 'none'}")


def _revision(item: dict[str, Any]) -> str:
    return f", revision {item['revision']}" if item["revision"] else ""
