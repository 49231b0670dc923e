"""`parbake once`"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from agent.cli.output import print_json, print_line
from agent.cli.session import Session, open_session
from agent.convergence import journal
from agent.convergence.converge import converge
from agent.convergence.phases import Phase
from agent.errors import BusyError, ParbakeError, StopRequested
from agent.paths import Paths
from agent.settings.models import Settings
from agent.status import report
from agent.status.report import InstanceState, Report, state_after
from agent.system import journal_log
from agent.system.units import booting


def add_arguments(parser: ArgumentParser) -> None:
    add_no_wait(parser)


def add_no_wait(parser: ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="exit 75 instead of waiting for another parbake")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    with open_session(paths, settings) as session:
        code = converge_and_publish(session, cause="once", wait=not arguments.no_wait)
    show(session.memory.report, as_json=arguments.json)
    return code


def converge_and_publish(session: Session, *, cause: str, wait: bool = True, resume: bool = False) -> int:
    """Converge, and write status.json whether or not it succeeds. Returns the exit code. Raises ParbakeError."""
    runtime, memory, sources = session.runtime, session.memory, session.sources
    before_ready = booting(runtime.units)
    try:
        code = converge(runtime, memory, sources, cause=cause, before_ready=before_ready, wait=wait, resume=resume)
    except (BusyError, StopRequested):
        raise  # nothing was done, and another parbake may have written the status
    except ParbakeError as error:
        memory.report.set_state(state_after(error), str(error))
        _publish(session, error.exit_code)
        raise
    _publish(session, code)
    unfinished = journal.load(runtime.state.records) if runtime.stopping else None
    if unfinished is not None and unfinished.phase != Phase.AWAITING_START:
        raise StopRequested(
            f"stopped in generation {memory.report.generation}: its targets are in place, and it is not verified",
            hint="the next start of parbake finishes it",
        )
    return code


def _publish(session: Session, code: int) -> None:
    current, paths = session.memory.report, session.runtime.paths
    try:
        report.publish(current, paths)
    except OSError as failure:
        sys.stderr.write(f"warning: {paths.status} cannot be written: {failure.strerror}\n")
    if paths.is_host and (current.state != InstanceState.ROLLED_BACK or code):
        level, message_id = journal_log.EVENTS[current.state]
        text = f"{current.state}: {current.error}" if current.error else current.state
        journal_log.announce(level, text, message_id, current.generation)


def show(current: Report, *, as_json: bool) -> None:
    """Print the outcome, as lines or as status.json."""
    if as_json:
        print_json(report.as_status(current))
        return
    print_line(f"{current.state}, generation {current.generation}, in {current.seconds:.2f} s")
    for result in current.units:
        print_line(f"  {result.action} {result.unit}: {result.result}{f' ({result.detail})' if result.detail else ''}")
