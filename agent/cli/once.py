"""`parbake once`"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from agent.cli.output import say, say_json
from agent.convergence import converge
from agent.convergence.context import World, open_world
from agent.errors import BusyError, ParbakeError, RolledBack
from agent.paths import Paths
from agent.settings.models import Settings
from agent.status import report
from agent.system import journal_log
from agent.system.units import booting


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="exit 75 instead of waiting for another parbake")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    world = open_world(paths, settings)
    try:
        code = converge_and_publish(world, cause="once", before_ready=booting(world.units), wait=not arguments.no_wait)
    finally:
        world.close()
    show(world, arguments.json)
    return code


def converge_and_publish(world: World, *, cause: str, before_ready: bool, wait: bool = True, let_go: bool = False) -> int:
    """Converge, and write status.json whatever becomes of it. Raises ParbakeError."""
    try:
        code = converge.converge(world, cause=cause, before_ready=before_ready, wait=wait, let_go=let_go)
    except BusyError:
        raise  # the other one writes what is to be said
    except ParbakeError as error:
        world.report.set_state("rolled-back" if isinstance(error, RolledBack) else "failed", str(error))
        _publish(world, error.exit_code)
        raise
    _publish(world, code)
    return code


def _publish(world: World, code: int) -> None:
    found = world.report
    try:
        report.publish(found, world.paths)
    except OSError as failure:
        sys.stderr.write(f"warning: {world.paths.status} cannot be written: {failure.strerror}\n")
    if world.paths.is_host and (found.state != "rolled-back" or code):
        level, message_id = journal_log.EVENTS[found.state]
        journal_log.announce(
            level, f"{found.state}: {found.error}" if found.error else found.state, message_id, found.generation
        )


def show(world: World, as_json: bool) -> None:
    """The outcome, in a line or as status.json."""
    found = world.report
    if as_json:
        say_json(report.as_status(found))
        return
    say(f"{found.state}, generation {found.generation}, in {found.seconds:.2f} s")
    for result in found.units:
        say(f"  {result.action} {result.unit}: {result.result}{f' ({result.detail})' if result.detail else ''}")
