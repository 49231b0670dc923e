"""`parbake resume`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent import converge
from agent.commands import say
from agent.commands.once import converge_and_publish, show
from agent.places import Places
from agent.settings.tables import Settings
from agent.units import booting


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="exit 75 instead of waiting for another parbake")


def run(arguments: Namespace, settings: Settings, places: Places) -> int:
    world = converge.open_world(places, settings)
    if not world.state.load(converge.HOLD):
        say("nothing is held")
        return 0
    world.state.remove(converge.HOLD)
    try:
        code = converge_and_publish(world, cause="resume", before_ready=booting(world.units), wait=not arguments.no_wait)
    finally:
        world.close()
    show(world, arguments.json)
    return code
