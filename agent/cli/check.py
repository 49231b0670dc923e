"""`parbake check`: checks an image offline, without an instance."""

from __future__ import annotations

import os
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from agent.cli.output import print_json, print_line
from agent.errors import ContractError, RenderError, SettingsError
from agent.keypath import KeyPath, dotted
from agent.paths import Paths
from agent.runconfig import contract
from agent.settings.models import Settings
from agent.shipping import feedback_loops
from agent.system.process import PATH


def add_arguments(parser: ArgumentParser) -> None:
    """Add nothing: the command has only the options of all commands."""


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    warnings = check_image(settings, paths)
    if arguments.json:
        print_json({"ok": True, "warnings": warnings})
        return 0
    for warning in warnings:
        print_line(f"warning: {warning}")
    counts = {"template": settings.templates, "key": settings.keys, "source": settings.sources, "sink": settings.sinks}
    print_line(f"ok: {', '.join(_counted(len(items), noun) for noun, items in counts.items())}")
    return 0


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def check_image(settings: Settings, paths: Paths) -> list[str]:
    """Return the warnings about an image.

    Raises ContractError with every problem: syntax errors, keys that are read and not declared, missing commands. Raises
    SettingsError if the only problems are sinks that write what is shipped.
    """
    problems: list[str] = []
    reads: set[KeyPath] = set()
    for name, keys, problem in _template_reads(settings, paths):
        if problem:
            problems.append(problem)
            continue
        reads |= keys
        if settings.keys:
            undeclared = contract.undeclared(keys, settings.keys)
            problems += [f"template {name}: reads {dotted(key)}, which [keys] does not declare" for key in undeclared]
    problems += _missing_commands(settings, paths)
    loops = list(feedback_loops.of_image(settings, paths))
    if problems:
        problems += loops
        count = _counted(len(problems), "problem")
        raise ContractError(f"the image is not ready: {count}", problems, hint="correct them and bake again")
    if loops:
        raise SettingsError(
            "the settings would ship logs in a loop",
            loops,
            hint="let the sink write outside the files that [ship] files matches",
        )
    return [*_unread_keys(settings, reads), *_sinks_to_journal(settings)]


def _template_reads(settings: Settings, paths: Paths) -> Iterator[tuple[str, frozenset[KeyPath], str]]:
    """Yield each template's name, the keys that it reads, and the problem if it cannot be compiled."""
    if not settings.templates:
        return
    from agent.templates import static_analysis
    from agent.templates.renderer import Renderer

    renderer = Renderer(paths, settings.component, settings.templates)
    for template in settings.templates:
        try:
            renderer.compile(template)
            keys = static_analysis.static_key_reads(renderer.environment(template), template.source)
        except RenderError as error:
            yield template.name, frozenset(), str(error)
        else:
            yield template.name, frozenset(keys), ""


def _unread_keys(settings: Settings, reads: set[KeyPath]) -> list[str]:
    return [
        f"key {dotted(path)} is declared and never read by a template"
        for path in sorted(settings.keys)
        if not any(path[: len(key)] == key or key[: len(path)] == path for key in reads)
    ]


def _sinks_to_journal(settings: Settings) -> list[str]:
    return [
        f"sink {sink.name}: writes to standard output, which is the journal in parbake-ship.service; it would not start"
        for sink in feedback_loops.to_stdout(settings)
        if settings.ship.journal
    ]


def _missing_commands(settings: Settings, paths: Paths) -> Iterator[str]:
    search_path = os.pathsep.join(str(paths.host(part)) for part in PATH.split(":"))
    for template in settings.templates:
        commands = [("check", template.check), ("verify", template.verify), *(("unit", u.command) for u in template.units)]
        for kind, argv in commands:
            if not argv:
                continue
            # With --root, commands still run on the host, so a command that only the host has is accepted.
            if not (shutil.which(argv[0], path=search_path) or shutil.which(argv[0], path=PATH)):
                yield f"template {template.name}: its {kind} command {argv[0]} is not in the image"
            if kind == "check" and not any("{candidate" in part for part in argv):
                yield f"template {template.name}: its check never names {{candidate}}, so it would check the old file"
