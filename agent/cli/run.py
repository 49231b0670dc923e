"""`parbake run`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent.cli.output import load_settings
from agent.convergence.context import World, open_world
from agent.daemon.loop import Daemon
from agent.paths import Paths
from agent.settings.models import Settings
from agent.status import report
from agent.system import journal_log


def add_arguments(parser: ArgumentParser) -> None:
    """No options of its own."""


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    def reload(world: World) -> World:
        """A new world from the settings as they are now; what the old one knew of the last convergence stays."""
        fresh = open_world(paths, load_settings(paths, arguments))
        fresh.report = world.report
        fresh.report.component = report.new_report(fresh.settings).component
        if arguments.log_level is None:
            journal_log.set_up(fresh.settings.log.level)
        return fresh

    return Daemon(open_world(paths, settings), reload).run()
