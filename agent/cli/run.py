"""`parbake run`"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent.cli.output import load_settings
from agent.daemon.loop import Daemon
from agent.paths import Paths
from agent.settings.models import Settings
from agent.system import journal_log


def add_arguments(parser: ArgumentParser) -> None:
    """It has no options but the general ones."""


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    def reload() -> Settings:
        """Read the settings again. Raises SettingsError."""
        reloaded = load_settings(paths, arguments)
        if arguments.log_level is None:
            journal_log.set_up(reloaded.log.level)
        return reloaded

    return Daemon(paths, settings, reload).run()
