"""`parbake verify`"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import Any

from agent.cli.bake import digest_of
from agent.cli.output import say, say_json
from agent.convergence import drift
from agent.errors import StateError
from agent.paths import Paths
from agent.settings.models import Settings
from agent.state.generations import Generations


def add_arguments(parser: ArgumentParser) -> None:
    """No options of its own."""


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    drifted = [*_targets(settings, paths), *_manifest(paths)]
    if arguments.json:
        say_json({"drift": drifted})
    else:
        for item in drifted:
            say(f"{item['path']}: {item['drift']}")
        say(f"{len(drifted)} drifted" if drifted else "nothing has drifted")
    return 2 if drifted else 0


def _targets(settings: Settings, paths: Paths) -> list[dict[str, Any]]:
    last = Generations(paths, settings.state.generations, settings.state.cache).last()
    found = []
    for known in (last.targets if last else {}).values():
        drifted = drift.of_target(paths, known)
        if drifted:
            found.append({"path": known["target"], "drift": drifted})
    return found


def _manifest(paths: Paths) -> list[dict[str, Any]]:
    try:
        record = json.loads(paths.manifest.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise StateError(f"{paths.manifest} cannot be read: {error}", hint="bake the image again") from None
    found = []
    for path, digest in record.get("files", {}).items():
        try:
            if digest_of(paths.host(path)) != digest:
                found.append({"path": path, "drift": "differs from the bake"})
        except OSError as error:
            found.append({"path": path, "drift": f"baked, and now: {error.strerror}"})
    return found
