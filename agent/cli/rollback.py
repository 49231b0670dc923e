"""`parbake rollback [N]`"""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace

from agent.cli.once import add_no_wait, show
from agent.cli.session import open_session
from agent.convergence import rollback
from agent.errors import ApplyError
from agent.paths import Paths
from agent.settings.models import Settings
from agent.system import journal_log


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("generation", nargs="?", type=int, metavar="N", help="default: the one before the applied one")
    add_no_wait(parser)


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    with open_session(paths, settings) as session:
        report = session.memory.report
        try:
            rollback.roll_back_to(session.runtime, session.memory, arguments.generation, wait=not arguments.no_wait)
        except ApplyError as error:
            if paths.is_host:
                message_id = journal_log.failure_id(error)
                journal_log.announce(logging.ERROR, f"parbake rollback: {error}", message_id, report.generation)
            raise
    show(report, as_json=arguments.json)
    return 0
