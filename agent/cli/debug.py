"""`parbake debug`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent.cli import once
from agent.cli import plan as plan_command
from agent.cli.output import say, say_json
from agent.convergence import converge
from agent.convergence.context import open_world
from agent.paths import Paths
from agent.settings.models import Settings
from agent.system.units import booting

LOG_LEVEL = "info"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--apply", action="store_true", help="put the plan into effect")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    def narrate(step: str, seconds: float, text: str) -> None:
        if not arguments.json:
            say(f"{step:>8}  {seconds * 1000:7.1f} ms  {text}")

    world = open_world(paths, settings)
    world.narrate = narrate
    if not arguments.json:
        say(f"settings  {', '.join(settings.files)}")
    try:
        if arguments.apply:
            code = once.converge_and_publish(world, cause="debug", before_ready=booting(world.units))
            once.show(world, arguments.json)
            return code
        prepared = converge.prepare(world, converge.discover_facts(world))
    finally:
        world.close()
    if arguments.json:
        say_json(plan_command.as_plain(world, prepared))
    else:
        say("")
        plan_command.show(world, prepared)
        say("nothing was changed; --apply puts this into effect")
    return max((error.exit_code for error in prepared.waiting.values()), default=0)
