"""`parbake check`: everything that can be known of an image without an instance."""

from __future__ import annotations

import os
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from agent.cli.output import print_json, print_line
from agent.errors import ContractError, RenderError, SettingsError
from agent.keypath import dotted
from agent.paths import Paths
from agent.runconfig import contract
from agent.settings.models import Settings
from agent.shipping import feedback_loops
from agent.system.process import PATH


def add_arguments(parser: ArgumentParser) -> None:
    """It has no options but the general ones."""


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    warnings = examine(settings, paths)
    if arguments.json:
        print_json({"ok": True, "warnings": warnings})
        return 0
    for warning in warnings:
        print_line(f"warning: {warning}")
    counts = {"templates": settings.templates, "keys": settings.keys, "sources": settings.sources, "sinks": settings.sinks}
    print_line(f"ok: {', '.join(f'{len(found)} {what}' for what, found in counts.items())}")
    return 0


def examine(settings: Settings, paths: Paths) -> list[str]:
    """The warnings. Raises ContractError with every problem: syntax, keys read but not declared, commands not there; and
    SettingsError where the only ones are sinks that write what is shipped."""
    problems: list[str] = []
    read: set[tuple[str, ...]] = set()
    if settings.templates:
        from agent.templates import renderer as render
        from agent.templates import static_analysis

        renderer = render.Renderer(paths, settings.component, settings.templates)
        for template in settings.templates:
            try:
                renderer.compile(template)
                keys = static_analysis.static_key_reads(renderer.environment(template), template.source)
            except RenderError as error:
                problems.append(str(error))
                continue
            read |= keys
            if settings.keys:
                problems += [
                    f"template {template.name}: reads {dotted(key)}, which [keys] does not declare"
                    for key in contract.undeclared(keys, settings.keys)
                ]
    problems += _commands(settings, paths)
    circles = list(feedback_loops.of_image(settings, paths))
    if problems:
        found = [*problems, *circles]
        raise ContractError(f"the image is not ready: {len(found)} problem(s)", found, hint="mend them and bake again")
    if circles:
        raise SettingsError("the settings would ship logs in circles", circles, hint="ship to another place")
    return [*_unread(settings, read), *_to_journal(settings)]


def _unread(settings: Settings, read: set[tuple[str, ...]]) -> list[str]:
    return [
        f"key {dotted(path)} is declared and never read by a template"
        for path in sorted(settings.keys)
        if not any(path[: len(key)] == key or key[: len(path)] == path for key in read)
    ]


def _to_journal(settings: Settings) -> list[str]:
    return [
        f"sink {sink.name}: writes to standard output, which is the journal in parbake-ship.service: that would not start"
        for sink in feedback_loops.to_stdout(settings)
        if settings.ship.journal
    ]


def _commands(settings: Settings, paths: Paths) -> Iterator[str]:
    search = os.pathsep.join(str(paths.host(part)) for part in PATH.split(":"))
    for template in settings.templates:
        commands = [("check", template.check), ("verify", template.verify), *(("unit", u.command) for u in template.units)]
        for what, argv in commands:
            if not argv:
                continue
            # commands run on the host even below --root, so one that only the host has is there too
            there = shutil.which(argv[0], path=search) or shutil.which(argv[0], path=PATH)
            if not there:
                yield f"template {template.name}: its {what} command {argv[0]} is not in the image"
            if what == "check" and not any("{candidate" in part for part in argv):
                yield f"template {template.name}: its check never names {{candidate}}, so it would check the old file"
