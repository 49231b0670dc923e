"""`parbake rollback [N]`"""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace

from agent import logs, rollback
from agent.commands.once import show
from agent.errors import ApplyError
from agent.places import Places
from agent.settings.tables import Settings
from agent.world import open_world


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("generation", nargs="?", type=int, metavar="N", help="default: the one before the applied one")
    parser.add_argument("--no-wait", action="store_true", help="exit 75 instead of waiting for another parbake")


def run(arguments: Namespace, settings: Settings, places: Places) -> int:
    world = open_world(places, settings)
    try:
        rollback.roll_back(world, arguments.generation, wait=not arguments.no_wait)
    except ApplyError as error:
        if places.is_host:
            logs.announce(logging.ERROR, f"parbake rollback: {error}", logs.failure_id(error), world.report.generation)
        raise
    show(world, arguments.json)
    return 0
