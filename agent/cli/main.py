"""The command line. Each command is a module of this package, imported only if it is the one to run."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from agent import __version__
from agent.errors import ParbakeError, UsageError

if TYPE_CHECKING:
    from agent.paths import Paths

COMMANDS = {
    "run": "the daemon: converges, reports READY to systemd, then watches",
    "once": "converge once and exit",
    "plan": "show what `once` would do, and change nothing",
    "debug": "narrate each step with its timing; changes nothing without --apply",
    "facts": "the facts, each with the provider it came from",
    "explain": "where a key came from, what it overrode, and what uses it",
    "check": "check the image offline: settings, templates against the contract, commands",
    "bake": "check, then compile templates and write the build manifest",
    "verify": "targets and build manifest against the disk: what drifted",
    "compare": "render for two environments and show that only run config differs",
    "status": "show what is applied now",
    "history": "list the generations",
    "rollback": "apply an earlier generation, and hold it",
    "resume": "end the hold of a rollback, and try rejected groups once more",
    "ship": "the log shipper",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=f"see `{self.prog} -h`")


def _general(*, top: bool) -> _Parser:
    """Return a parser of the options of all commands. They may come before the command or after it."""
    default: Any = None if top else argparse.SUPPRESS
    general = _Parser(add_help=False)
    general.add_argument("--root", metavar="DIR", default=default, help="every path is below DIR; units are not acted on")
    general.add_argument("--config", metavar="FILE", default=default, help="in place of /etc/parbake/parbake.toml")
    general.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default=default)
    general.add_argument("--json", action="store_true", default=False if top else argparse.SUPPRESS, help="print JSON")
    return general


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser with the arguments of `command`. The other commands are only named: their modules are not imported."""
    top = _Parser(prog="parbake", description="Finishes the baking of a par-baked image.", parents=[_general(top=True)])
    top.add_argument("--version", action="version", version=f"parbake {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, text in COMMANDS.items():
        if name != command:
            commands.add_parser(name, help=text)
            continue
        sub = commands.add_parser(name, help=text, description=text, parents=[_general(top=False)])
        sub.add_argument("--version", action="version", version=f"parbake {__version__}")
        _module(name).add_arguments(sub)
    return top


def _module(name: str) -> Any:
    return importlib.import_module(f"agent.cli.{name}")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    option_values = {i + 1 for i, word in enumerate(argv) if word in ("--root", "--config", "--log-level")}
    named = next((word for i, word in enumerate(argv) if word in COMMANDS and i not in option_values), None)
    arguments = parser(named).parse_args(argv)
    if arguments.command is None:
        raise UsageError("parbake: no command given", hint=f"commands: {', '.join(COMMANDS)}; see `parbake -h`")
    if arguments.command != named:
        arguments = parser(arguments.command).parse_args(argv)
    return arguments


def _paths(root: str | None) -> Paths:
    from pathlib import Path

    from agent.paths import Paths  # imports dataclasses, which --version and -h can do without

    if root is None:
        return Paths()
    try:
        found = Path(root).is_dir()
    except OSError as error:
        raise UsageError(f"--root {root}: {error.strerror}", hint="name a directory that you may enter") from None
    if not found:
        raise UsageError(f"--root {root}: no such directory", hint="name the root directory of an unpacked image")
    return Paths(Path(root).resolve())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code of INTERFACE.md section 6."""
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        code: int = _run(arguments)
        sys.stdout.flush()
        return code
    except ParbakeError as error:
        return _report_error(error)
    except BrokenPipeError:
        # The reader of the output is gone. Without this, the interpreter's flush at exit would fail and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the one place that reports a bug
        return _report_bug(error)


def _run(arguments: argparse.Namespace) -> int:
    from agent.system import journal_log

    module = _module(arguments.command)
    paths = _paths(arguments.root)
    journal_log.set_up(arguments.log_level or getattr(module, "LOG_LEVEL", "warning"))
    settings = None
    if getattr(module, "NEEDS_SETTINGS", True):
        from agent.cli.output import load_settings

        settings = load_settings(paths, arguments)
        if arguments.log_level is None and not hasattr(module, "LOG_LEVEL"):
            journal_log.set_up(settings.log.level)
    return int(module.run(arguments, settings, paths))


def _report_error(error: ParbakeError) -> int:
    from agent.formats.terminal import printable

    hint = f"\nhint: {error.hint}" if error.hint else ""
    sys.stderr.write(printable(f"error: {error}{hint}\n"))
    return error.exit_code


def _report_bug(error: Exception) -> int:
    """Print the location of a bug, without the exception's message, which may quote a secret."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    locations = "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-8:])
    sys.stderr.write(
        f"error: a bug in parbake {__version__}: {type(error).__name__}\n{locations}\n"
        "hint: report this with the lines above; the last applied config stays in place\n"
    )
    return 70
