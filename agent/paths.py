"""The paths of parbake. With --root DIR all of them are below DIR."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """The paths of INTERFACE section 2 below one root."""

    root: Path = Path("/")

    def host(self, path: str | Path) -> Path:
        """Return the real path of a path in the settings."""
        return self.root / str(path).lstrip("/")

    def shown(self, path: Path) -> str:
        """Return a real path as the settings write it. The inverse of `host`."""
        return "/" + str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    @property
    def is_host(self) -> bool:
        """Whether the root is that of this machine, so that units may be acted on."""
        return self.root == Path("/")

    @property
    def main_file(self) -> Path:
        return self.host("/etc/parbake/parbake.toml")

    @property
    def vendor_directory(self) -> Path:
        return self.host("/usr/lib/parbake/conf.d")

    @property
    def baked_directory(self) -> Path:
        return self.host("/etc/parbake/conf.d")

    @property
    def runtime_directory(self) -> Path:
        return self.host("/run/parbake/conf.d")

    @property
    def templates(self) -> Path:
        return self.host("/etc/parbake/templates")

    @property
    def state(self) -> Path:
        return self.host("/var/lib/parbake")

    @property
    def run(self) -> Path:
        return self.host("/run/parbake")

    @property
    def status(self) -> Path:
        return self.run / "status.json"

    @property
    def metrics(self) -> Path:
        return self.run / "metrics.prom"

    @property
    def mask(self) -> Path:
        return self.run / "mask"

    @property
    def ship(self) -> Path:
        return self.state / "ship"

    @property
    def manifest(self) -> Path:
        return self.host("/usr/lib/parbake/manifest.json")

    @property
    def compiled(self) -> Path:
        return self.host("/usr/lib/parbake/compiled")
