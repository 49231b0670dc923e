"""`parbake run`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent import logs, report
from agent.commands import load_settings
from agent.daemon import Daemon
from agent.places import Places
from agent.settings.tables import Settings
from agent.world import World, open_world


def add_arguments(parser: ArgumentParser) -> None:
    """No options of its own."""


def run(arguments: Namespace, settings: Settings, places: Places) -> int:
    def reload(world: World) -> World:
        """A new world from the settings as they are now; what the old one knew of the last convergence stays."""
        fresh = open_world(places, load_settings(places, arguments))
        fresh.report = world.report
        fresh.report.component = report.fresh(fresh.settings).component
        if arguments.log_level is None:
            logs.set_up(fresh.settings.log.level)
        return fresh

    return Daemon(open_world(places, settings), reload).run()
