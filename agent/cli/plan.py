"""`parbake plan`"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from agent.cli.output import print_json, print_line
from agent.cli.session import Session, open_session
from agent.convergence import plan
from agent.convergence.context import PlannedConvergence
from agent.convergence.hold import held_generation
from agent.convergence.rendering import renderer_of
from agent.errors import RenderError
from agent.formats.terminal import printable
from agent.keypath import KeyPath, dotted, lookup
from agent.masking.masker import Masker
from agent.model import Change
from agent.paths import Paths
from agent.secret import MASK, Secret
from agent.settings.models import Settings
from agent.templates import fake_secrets

_COLOURS = {"+": "\033[32m", "-": "\033[31m", "@": "\033[36m"}
_EXIT_PENDING = 2


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--exit-code", action="store_true", help="exit 2 if something would change")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    with open_session(paths, settings) as session:
        planned = session.plan()
    if arguments.json:
        print_json(as_plain(session, planned))
    else:
        show(session, planned)
    if planned.waiting:
        return max(error.exit_code for error in planned.waiting.values())
    held = held_generation(session.runtime.state.records) is not None
    return _EXIT_PENDING if arguments.exit_code and planned.plan.pending and not held else 0


def values(planned: PlannedConvergence) -> list[dict[str, Any]]:
    """Return every key with its value and its origin. Secrets are masked."""
    rows = []
    for path, origin in sorted(planned.config.origins.items()):
        value = lookup(planned.config.tree, path)
        secret = isinstance(value, Secret) or _within_secret(planned, path)
        rows.append(
            {
                "key": dotted(path),
                "value": MASK if secret else value,
                "source": origin.source,
                "layer": origin.layer,
                "revision": origin.revision,
                "overrode": [f"{o.source}:{o.layer}" for o in origin.overrode],
            }
        )
    return rows


def _within_secret(planned: PlannedConvergence, path: KeyPath) -> bool:
    return any(path[: len(secret)] == secret for secret in planned.config.secrets)


def diff_of(session: Session, planned: PlannedConvergence, change: Change) -> str:
    """Return the diff of one target, without a line that depends on a secret."""
    decoy = render_decoy(session, planned, change.template) if change.pending and change.secret else None
    return plan.diff(change, planned.config, decoy)


def render_decoy(session: Session, planned: PlannedConvergence, name: str) -> str:
    """Render a template with other secrets, and mask those. Returns "" if that fails: then no line is shown."""
    config = fake_secrets.of(planned.config)
    (template,) = (template for template in session.runtime.settings.templates if template.name == name)
    try:
        content = renderer_of(session.runtime, session.memory).render(template, config, planned.facts).content
    except RenderError:
        return ""
    return Masker(config.secret_texts()).mask(content.decode("utf-8", "replace"))


def as_plain(session: Session, planned: PlannedConvergence) -> dict[str, Any]:
    """Return the plan as plain values, for `--json`."""
    hold = held_generation(session.runtime.state.records)
    return {
        "changes": planned.plan.pending and hold is None,
        "hold": hold,
        "digest": planned.digest,
        "facts": {name: planned.facts.values[name] for name in sorted(planned.facts.values)},
        "providers": dict(planned.facts.providers),
        "sources": [
            {"name": s.name, "state": s.state, "revision": s.revision, "error": s.error} for s in planned.pulled.reports
        ],
        "values": values(planned),
        "targets": [
            {
                "template": c.template,
                "target": c.target,
                "change": c.kind,
                "mode": f"{c.mode:04o}",
                "uid": c.uid,
                "gid": c.gid,
                "diff": diff_of(session, planned, c),
            }
            for c in planned.plan.changes
        ],
        "units": [{"name": s.unit, "action": s.action, "templates": list(s.templates)} for s in planned.plan.units],
        "waiting": {group or "default": str(error) for group, error in planned.waiting.items()},
    }


def show(session: Session, planned: PlannedConvergence) -> None:
    """Print the plan for people, in the order in which it would be done."""
    print_line("facts:")
    for name, value in sorted(planned.facts.values.items()):
        shown = value if isinstance(value, str) else "(table)"
        print_line(f"  {name} = {shown}  ({planned.facts.providers.get(name, '')})")
    for source in planned.pulled.reports:
        print_line(f"source {source.name} ({source.backend}): {source.state}{f': {source.error}' if source.error else ''}")
    print_line("run config:")
    for row in values(planned):
        over = f", over {', '.join(row['overrode'])}" if row["overrode"] else ""
        print_line(f"  {row['key']} = {row['value']!r}  ({row['source']}:{row['layer'] or '(top)'}{over})")
    for change in planned.plan.changes:
        print_line(f"target {change.target}: {change.kind}, mode {change.mode:04o}")
        if change.pending:
            sys.stdout.write(_coloured(printable(diff_of(session, planned, change))))
    for step in planned.plan.units:
        print_line(f"unit {step.unit}: {step.action}, for {', '.join(step.templates)}")
    for group, error in planned.waiting.items():
        print_line(f"group {group or 'default'} waits: {error}")
    hold = held_generation(session.runtime.state.records)
    if hold is not None:
        print_line(f"held at generation {hold} by `parbake rollback`: nothing of this is done until `parbake resume`")
    elif not planned.plan.pending and not planned.waiting:
        print_line("nothing would change")


def _coloured(text: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return "".join(
        f"{_COLOURS[line[0]]}{line.rstrip()}\033[0m\n" if line[:1] in _COLOURS else line
        for line in text.splitlines(keepends=True)
    )
