"""`parbake history`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from agent.cli.output import aligned, print_json, print_line
from agent.paths import Paths
from agent.settings.models import Settings
from agent.state.generations import Generation, Generations

_HEADER = ("generation", "time", "state", "cause", "keys")
_KEYS_SHOWN = 6


def add_arguments(parser: ArgumentParser) -> None:
    """It has no options but the general ones."""


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    generations = Generations(paths, settings.state.generations, settings.state.cache).all()
    if arguments.json:
        print_json([asdict(generation) for generation in generations])
    elif generations:
        print_line(aligned([_HEADER, *map(_row, generations)]))
    else:
        print_line("nothing was applied yet")
    return 0


def _row(generation: Generation) -> tuple[str, ...]:
    keys = ", ".join(generation.keys[:_KEYS_SHOWN])
    if len(generation.keys) > _KEYS_SHOWN:
        keys += f" and {len(generation.keys) - _KEYS_SHOWN} more"
    return str(generation.number), generation.time, generation.state, generation.cause, keys
