"""`parbake bake`: the last step of an image build."""

from __future__ import annotations

import hashlib
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from agent import __version__
from agent.cli.check import check_image
from agent.cli.output import print_json, print_line
from agent.convergence import boot_dropins
from agent.errors import StateError
from agent.paths import Paths
from agent.settings.models import Settings
from agent.system.safe_files import write_atomic


def add_arguments(parser: ArgumentParser) -> None:
    """Add nothing: the command has only the options of all commands."""


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    warnings = check_image(settings, paths)
    try:
        compiled = _compile(settings, paths)
        drop_ins = _write_drop_ins(settings, paths)
        manifest = build_manifest(settings, paths, [*compiled, *drop_ins])
        paths.manifest.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(paths.manifest, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode(), 0o644)
    except OSError as error:
        raise StateError(
            f"the image cannot be baked: {error.filename or paths.manifest}: {error.strerror}",
            hint="run `parbake bake` as root in the image build",
        ) from None
    if arguments.json:
        print_json({"warnings": warnings, "manifest": paths.shown(paths.manifest), "drop_ins": drop_ins, "compiled": compiled})
        return 0
    for warning in warnings:
        print_line(f"warning: {warning}")
    for path in drop_ins:
        print_line(f"wrote {path}")
    image = f"{settings.component.name} {settings.component.version}".strip()
    print_line(f"baked {image}: {len(compiled)} compiled templates, {paths.shown(paths.manifest)}")
    return 0


def _compile(settings: Settings, paths: Paths) -> list[str]:
    if not settings.templates:
        return []
    from agent.templates.renderer import Renderer

    for path in paths.compiled.glob("*.jinja") if paths.compiled.is_dir() else ():
        path.unlink()
    renderer = Renderer(paths, settings.component, settings.templates, baking=True)
    for template in settings.templates:
        renderer.compile(template)
    return [paths.shown(Path(path)) for path in renderer.baked_files()]


def _write_drop_ins(settings: Settings, paths: Paths) -> list[str]:
    """Write the drop-ins of the units that templates name, and remove those that an earlier bake left for other units."""
    wanted = boot_dropins.drop_ins(settings)
    for path, text in wanted.items():
        host_path = paths.host(path)
        host_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(host_path, text.encode(), 0o644)
    for existing in paths.host("/etc/systemd/system").glob(f"*.d/{boot_dropins.FILE_NAME}"):
        if paths.shown(existing) not in wanted:
            existing.unlink()
            if not any(existing.parent.iterdir()):
                existing.parent.rmdir()
    return sorted(wanted)


def build_manifest(settings: Settings, paths: Paths, written: list[str]) -> dict[str, Any]:
    """Return the build manifest: every file of build config with its digest. `written` are the files that the bake wrote."""
    files = [*_baked_settings(settings, paths), *_template_files(settings, paths), *written]
    return {
        "schema": 1,
        "parbake": __version__,
        "component": {"name": settings.component.name, "version": settings.component.version},
        "files": {path: digest_of(paths.host(path)) for path in sorted(set(files))},
        "templates": [{"name": t.name, "source": t.source, "target": t.target} for t in settings.templates],
        "keys": {
            ".".join(path): {"type": k.type, "required": k.required, "secret": k.secret} for path, k in settings.keys.items()
        },
    }


def _baked_settings(settings: Settings, paths: Paths) -> list[str]:
    run_time_directory = str(paths.runtime_directory)
    return [paths.shown(Path(path)) for path in settings.files if not path.startswith(run_time_directory)]


def _template_files(settings: Settings, paths: Paths) -> list[str]:
    files = [paths.shown(path) for path in paths.templates.rglob("*") if path.is_file()]
    return files + [t.source for t in settings.templates if t.source.startswith("/")]


def digest_of(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
