"""`parbake resume`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent.cli.once import converge_and_publish, show
from agent.cli.output import say
from agent.convergence import quarantine
from agent.convergence.context import open_world
from agent.convergence.recovery import held
from agent.paths import Paths
from agent.settings.models import Settings
from agent.system.units import booting


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="exit 75 instead of waiting for another parbake")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    world = open_world(paths, settings)
    world.state.prepare()
    if held(world.state) is None and not quarantine.load(world.state):
        say("nothing is held, and nothing was rejected")
        return 0
    try:
        code = converge_and_publish(
            world, cause="resume", before_ready=booting(world.units), wait=not arguments.no_wait, let_go=True
        )
    finally:
        world.close()
    show(world, arguments.json)
    return code
