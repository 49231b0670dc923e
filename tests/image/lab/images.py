"""Root file systems as stacks of read-only layers: Debian, cached, and above it the layers of a test run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.image.lab import apt, cache
from tests.image.lab.cgroups import ControlGroup
from tests.image.lab.commands import call
from tests.image.lab.names import unique_name
from tests.image.lab.overlay import Overlay

#: The dependencies of the package, and the programs beside it on a real instance.
BASE_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "cloud-init",
    "haproxy",
    "python3",
    "python3-systemd",
    "python3-requests",
    "python3-jinja2",
    "python3-watchdog",
    "python3-tenacity",
    "python3-yaml",
    "ca-certificates",
    "curl",
    "iproute2",
)

#: Part of the cache's key. Change it if `_bootstrap` makes another image of the same packages.
_FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Image:
    """A root file system: directories laid over one another, the uppermost first. They are never written to."""

    suite: str
    layers: tuple[Path, ...]


def base_image(suite: str, packages: Sequence[str] = BASE_PACKAGES) -> Image:
    """Return Debian `suite` (a codename) with `packages`, from the cache or from this machine's mirrors.

    Raises LabError when mmdebstrap fails. The first time takes about a minute.
    """
    wanted = sorted(set(packages))
    name = f"{suite}-{cache.key([_FORMAT, suite, *wanted])}"
    return Image(suite, (cache.made_once(name, lambda directory: _bootstrap(suite, wanted, directory)) / "root",))


def prepared_image(
    base: Image, scratch: Path, debs: Iterable[Path] = (), finish: Callable[[Path], None] | None = None
) -> Image:
    """Add a layer in `scratch` to `base`: `debs` installed by dpkg, then the files that `finish(root)` writes.

    Raises LabError with dpkg's output when a package does not install.
    """
    with Overlay(base.layers, scratch, keep_changes=True) as overlay:
        copies = overlay.root / "var/cache/parbake-lab"
        copies.mkdir(parents=True)
        names = [Path(shutil.copy(deb, copies)).name for deb in debs]
        if names:
            run_in(overlay.root, ["dpkg", "--install", *(f"/var/cache/parbake-lab/{name}" for name in names)])
        shutil.rmtree(copies)
        if finish is not None:
            finish(overlay.root)
        return Image(base.suite, (overlay.changes, *base.layers))


def run_in(root: Path, argv: Sequence[str], *, timeout_seconds: float = 120.0) -> str:
    """Run one program in a file system that is not booted, without a network, and return its output."""
    name = unique_name()
    with ExitStack() as stack:
        group = stack.enter_context(ControlGroup(name))
        options = ["--quiet", "--register=no", "--keep-unit", "--private-network", "--pipe", f"--machine={name}"]
        environment = ["--setenv=DEBIAN_FRONTEND=noninteractive", "--setenv=LC_ALL=C.UTF-8"]
        nspawn = ["systemd-nspawn", *options, *environment, f"--directory={root}", "--", *argv]
        return call([*group.wrapper, *nspawn], timeout_seconds=timeout_seconds).stdout


def _bootstrap(suite: str, packages: Sequence[str], directory: Path) -> None:
    command = ["mmdebstrap", "--variant=minbase", "--format=directory", f"--include={','.join(packages)}"]
    command += [f"--aptopt={option}" for option in apt.transport_options()]
    # The image does not keep this machine's apt options. Like Debian's cloud images it has an empty machine-id: the first
    # boot makes one, and systemd does not take it for a factory reset.
    command += [
        '--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"',
        '--customize-hook=: > "$1/etc/machine-id"',
    ]
    call([*command, suite, str(directory / "root"), *apt.sources_for(suite)], timeout_seconds=900)
