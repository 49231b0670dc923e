"""`parbake verify`"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from agent.cli.bake import digest_of
from agent.cli.output import print_json, print_line
from agent.convergence import drift
from agent.errors import StateError
from agent.paths import Paths
from agent.settings.models import Settings
from agent.state.generations import Generations

_EXIT_DRIFT = 2


def add_arguments(parser: ArgumentParser) -> None:
    """It has no options but the general ones."""


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    drifted = [*_drifted_targets(settings, paths), *_drifted_files_of_the_bake(paths)]
    if arguments.json:
        print_json({"drift": [{"path": path, "drift": difference} for path, difference in drifted]})
    else:
        for path, difference in drifted:
            print_line(f"{path}: {difference}")
        print_line(f"{len(drifted)} drifted" if drifted else "nothing has drifted")
    return _EXIT_DRIFT if drifted else 0


def _drifted_targets(settings: Settings, paths: Paths) -> Iterator[tuple[str, str]]:
    last = Generations(paths, settings.state.generations, settings.state.cache).last()
    for recorded in (last.targets if last else {}).values():
        difference = drift.difference(paths, recorded)
        if difference:
            yield recorded["target"], difference


def _drifted_files_of_the_bake(paths: Paths) -> Iterator[tuple[str, str]]:
    """Compare the files of build config with the manifest. Raises StateError for a manifest that cannot be read."""
    try:
        manifest = json.loads(paths.manifest.read_bytes())
        files = manifest.get("files", {})
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError) as error:
        raise StateError(f"{paths.manifest} cannot be read: {error}", hint="bake the image again") from None
    for path, digest in files.items():
        try:
            if digest_of(paths.host(path)) != digest:
                yield path, "differs from the bake"
        except OSError as error:
            yield path, f"it was baked, and now: {error.strerror}"
