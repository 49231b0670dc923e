"""`parbake debug`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent.cli import once
from agent.cli import plan as plan_command
from agent.cli.output import print_json, print_line
from agent.cli.session import open_session
from agent.paths import Paths
from agent.settings.models import Settings

LOG_LEVEL = "info"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--apply", action="store_true", help="apply the plan")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    def narrate(step: str, seconds: float, text: str) -> None:
        if not arguments.json:
            print_line(f"{step:>8}  {seconds * 1000:7.1f} ms  {text}")

    if not arguments.json:
        print_line(f"settings  {', '.join(settings.files)}")
    with open_session(paths, settings, narrate) as session:
        if arguments.apply:
            code = once.converge_and_publish(session, cause="debug")
            once.show(session.memory.report, as_json=arguments.json)
            return code
        planned = session.plan()
    if arguments.json:
        print_json(plan_command.as_plain(session, planned))
    else:
        print_line("")
        plan_command.show(session, planned)
        print_line("nothing was changed; --apply applies this plan")
    return max((error.exit_code for error in planned.waiting.values()), default=0)
