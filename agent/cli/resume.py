"""`parbake resume`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent.cli.once import add_no_wait, converge_and_publish, show
from agent.cli.output import print_line
from agent.cli.session import open_session
from agent.convergence import quarantine
from agent.convergence.hold import held_generation
from agent.paths import Paths
from agent.settings.models import Settings


def add_arguments(parser: ArgumentParser) -> None:
    add_no_wait(parser)


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    with open_session(paths, settings) as session:
        session.runtime.state.prepare()
        records = session.runtime.state.records
        if held_generation(records) is None and not quarantine.load(records):
            print_line("no generation is held, and no group was rejected")
            return 0
        code = converge_and_publish(session, cause="resume", wait=not arguments.no_wait, resume=True)
    show(session.memory.report, as_json=arguments.json)
    return code
