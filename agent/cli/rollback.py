"""`parbake rollback [N]`"""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace

from agent.cli.once import show
from agent.convergence import rollback
from agent.convergence.context import open_world
from agent.errors import ApplyError
from agent.paths import Paths
from agent.settings.models import Settings
from agent.system import journal_log


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("generation", nargs="?", type=int, metavar="N", help="default: the one before the applied one")
    parser.add_argument("--no-wait", action="store_true", help="exit 75 instead of waiting for another parbake")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    world = open_world(paths, settings)
    try:
        rollback.roll_back(world, arguments.generation, wait=not arguments.no_wait)
    except ApplyError as error:
        if paths.is_host:
            journal_log.announce(
                logging.ERROR, f"parbake rollback: {error}", journal_log.failure_id(error), world.report.generation
            )
        raise
    show(world, arguments.json)
    return 0
