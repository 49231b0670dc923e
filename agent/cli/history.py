"""`parbake history`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from agent.cli.output import say, say_json, table
from agent.paths import Paths
from agent.settings.models import Settings
from agent.state.generations import Generations


def add_arguments(parser: ArgumentParser) -> None:
    """No options of its own."""


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    known = Generations(paths, settings.state.generations, settings.state.cache).all()
    if arguments.json:
        say_json([asdict(generation) for generation in known])
        return 0
    rows = [
        (
            str(g.number),
            g.time,
            g.state,
            g.cause,
            ", ".join(g.keys[:6]) + (f" and {len(g.keys) - 6} more" if len(g.keys) > 6 else ""),
        )
        for g in known
    ]
    say(table([("generation", "time", "state", "cause", "keys"), *rows]) if rows else "nothing was applied yet")
    return 0
