"""`parbake explain KEY`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from agent.cli.output import print_json, print_line
from agent.cli.session import open_session
from agent.convergence.context import PlannedConvergence
from agent.errors import UsageError
from agent.keypath import KeyPath, dotted, lookup, segments
from agent.model import SourceState
from agent.paths import Paths
from agent.secret import MASK, Secret
from agent.settings.models import Settings
from agent.settings.schema import closest


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="such as db.password; a table explains every key below it")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    with open_session(paths, settings) as session:
        planned = session.plan()
    wanted = segments(arguments.key)
    matching = sorted(path for path in planned.config.origins if path[: len(wanted)] == wanted)
    if not matching:
        raise _unknown_key(arguments.key, wanted, planned, settings)
    explanations = [_explanation(path, planned, settings) for path in matching]
    if arguments.json:
        print_json(explanations if len(explanations) > 1 else explanations[0])
    else:
        for explanation in explanations:
            _show(explanation)
    return 0


def _unknown_key(key: str, wanted: KeyPath, planned: PlannedConvergence, settings: Settings) -> UsageError:
    origins = planned.config.origins
    searched = "; ".join(
        f"{name}: {', '.join(layer.name or '(top)' for layer in snapshot.layers)}"
        for name, snapshot in planned.pulled.snapshots
    )
    hint = f"searched: {searched or 'no source'}"
    if wanted in settings.keys:
        return UsageError(f"{key} is declared and not required, and no layer has it", hint=hint)
    parent = next((wanted[:length] for length in range(1, len(wanted)) if wanted[:length] in origins), None)
    if parent is not None:
        return UsageError(f"no layer has {key}: {dotted(parent)} is a value, with nothing below it", hint=hint)
    suggestion = closest(key, [dotted(path) for path in origins])
    return UsageError(
        f"no layer has {key}, and it is not declared{suggestion if 'did you mean' in suggestion else ''}", hint=hint
    )


def _explanation(path: KeyPath, planned: PlannedConvergence, settings: Settings) -> dict[str, Any]:
    origin = planned.config.origins[path]
    value = lookup(planned.config.tree, path)
    declared = settings.keys.get(path)
    names = [name for name, r in planned.renderings.items() if any(path[: len(read)] == read for read in r.reads)]
    return {
        "key": dotted(path),
        "value": MASK if isinstance(value, Secret) else value,
        "secret": isinstance(value, Secret),
        "type": declared.type if declared else "undeclared",
        "description": declared.description if declared else "",
        "source": origin.source,
        "layer": origin.layer,
        "revision": origin.revision,
        "stale": _stale_error(planned, origin.source),
        "overrode": [{"source": o.source, "layer": o.layer, "revision": o.revision} for o in origin.overrode],
        "templates": names,
        "units": sorted({u.label for t in settings.templates if t.name in names for u in t.units}),
    }


def _stale_error(planned: PlannedConvergence, source: str) -> str | None:
    """Return the error of a source whose last good value is used, or None if the source answered."""
    for report in planned.pulled.reports:
        if report.name == source and report.state == SourceState.STALE:
            return report.error or ""
    return None


def _show(item: dict[str, Any]) -> None:
    value = item["value"] if item["secret"] else repr(item["value"])
    print_line(f"{item['key']} = {value}  ({item['type']}{', secret' if item['secret'] else ''})")
    if item["description"]:
        print_line(f"  {item['description']}")
    print_line(f"  from source {item['source']}, layer {item['layer'] or '(top)'}{_revision(item)}")
    if item["stale"] is not None:
        print_line(f"  the source is stale, and this is its last good value: {item['stale']}")
    for earlier in item["overrode"]:
        print_line(f"  over source {earlier['source']}, layer {earlier['layer'] or '(top)'}{_revision(earlier)}")
    print_line(f"  read by templates: {', '.join(item['templates']) or '(no template)'}")
    print_line(f"  picked up by units: {', '.join(item['units']) or '(no unit)'}")


def _revision(item: dict[str, Any]) -> str:
    return f", revision {item['revision']}" if item["revision"] else ""
