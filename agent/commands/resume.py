"""`parbake resume`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent import rejections
from agent.commands import say
from agent.commands.once import converge_and_publish, show
from agent.outcome import held
from agent.places import Places
from agent.settings.tables import Settings
from agent.units import booting
from agent.world import open_world


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="exit 75 instead of waiting for another parbake")


def run(arguments: Namespace, settings: Settings, places: Places) -> int:
    world = open_world(places, settings)
    world.state.prepare()
    if held(world.state) is None and not rejections.load(world.state):
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
