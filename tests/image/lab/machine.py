"""A Debian machine: a private copy of an image, booted with its own systemd."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType

from tests.image.lab import payload
from tests.image.lab.cgroups import ControlGroup
from tests.image.lab.commands import LabError, call
from tests.image.lab.firmware import UNIT as FIRMWARE_UNIT
from tests.image.lab.firmware import firmware_files
from tests.image.lab.images import Image
from tests.image.lab.names import unique_name
from tests.image.lab.network import Network
from tests.image.lab.nocloud import seed_files
from tests.image.lab.overlay import Overlay
from tests.servers.processes import Child, ServerError


class Machine:
    """`with Machine(image, scratch) as machine:` mounts a copy of `image` in `scratch`; `machine.boot()` starts it.

    Before the boot `write`, `seed`, `firmware` and `run` prepare its disk, afterwards they act in the running machine.
    Without a `network` it has a loopback interface and nothing else. `options` go to systemd-nspawn (`--set-credential=...`).
    Every method raises LabError with the end of the machine's console and journal.
    """

    def __init__(
        self,
        image: Image,
        scratch: Path,
        *,
        network: Network | None = None,
        hostname: str = "machine",
        options: Sequence[str] = (),
    ) -> None:
        self.name = unique_name()
        self._network = network
        self._hostname = hostname
        self._options = tuple(options)
        self._overlay = Overlay(image.layers, scratch)
        self._console = scratch / f"{self.name}.console"
        self._group = ControlGroup(self.name)
        self._nspawn: Child | None = None
        self._leader = 0
        self._cleanup = ExitStack()

    @property
    def root(self) -> Path:
        """The machine's disk, seen from the host. Its /run and /tmp are not there: `read` sees those."""
        return self._overlay.root

    @property
    def changes(self) -> Path:
        """The files that the machine has written above its image, seen from the host."""
        return self._overlay.changes

    @property
    def booted(self) -> bool:
        return self._nspawn is not None and self._nspawn.alive

    def __enter__(self) -> Machine:
        with ExitStack() as stack:
            stack.enter_context(self._overlay)
            stack.enter_context(self._group)
            stack.callback(self.kill)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is not None:
                error.add_note(self.last_words())
        finally:
            self._cleanup.close()

    def boot(self, *, timeout_seconds: float = 150.0, wait: bool = True, degraded: bool = False) -> float:
        """Start systemd, wait until all jobs of the boot are done, and return the seconds that it took.

        Without `wait` it returns once systemd answers. With `degraded` units may have failed.
        """
        if self.booted:
            raise LabError(f"{self.name} is running already")
        began = time.monotonic()
        self._nspawn = Child([*self._group.wrapper, *self._nspawn_command()], self._console)
        try:
            self._leader = payload.wait_for_leader(self._nspawn, timeout_seconds)
            state = self._wait_for_state(began + timeout_seconds, wait)
        except (LabError, ServerError) as error:
            words = self.last_words()
            self.kill()
            raise LabError(f"{self.name} did not boot: {error}\n{words}") from error
        if wait and state != "running" and not (degraded and state == "degraded"):
            raise LabError(f"{self.name} came up {state}\n{self.run(['systemctl', '--failed', '--no-pager']).stdout}")
        return time.monotonic() - began

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_seconds: float = 30.0, stdin: str | bytes = b""
    ) -> CompletedProcess[str]:
        """Run a program as root to its end, in the running machine or in its file system when it is not booted."""
        body = stdin.encode() if isinstance(stdin, str) else stdin
        enter = payload.entry(self._leader) if self.booted else ("chroot", str(self.root))
        # The program is ended inside: killing nsenter from here would leave it running there.
        bounded = ("timeout", "--kill-after=1", f"{timeout_seconds:g}", *argv)
        done = call(
            [*enter, *bounded],
            env=payload.ENVIRONMENT,
            stdin=body,
            check=False,
            timeout_seconds=timeout_seconds + 10,
        )
        if done.returncode == 124:
            raise LabError(f"{' '.join(argv)} took more than {timeout_seconds:g} s in {self.name}\n{done.stderr}")
        if check and done.returncode != 0:
            output = f"{done.stdout}{done.stderr}".rstrip()
            raise LabError(f"{' '.join(argv)} exited with {done.returncode} in {self.name}\n{output}")
        return done

    def read(self, path: str) -> str:
        """Return the text of a file of the machine."""
        return self.run(["cat", "--", path]).stdout

    def exists(self, path: str) -> bool:
        """Return whether `path` exists in the machine."""
        return self.run(["test", "-e", path], check=False).returncode == 0

    def write(self, path: str, text: str | bytes, *, mode: str = "0644", owner: str = "root:root") -> None:
        """Replace a file of the machine atomically. Missing directories are made."""
        directory, _, name = path.rpartition("/")
        script = 'set -e; mkdir -p "${1%/*}"; cat > "$4"; chown "$3" "$4"; chmod "$2" "$4"; mv "$4" "$1"'
        self.run(["sh", "-c", script, "sh", path, mode, owner, f"{directory}/.{name}.lab"], stdin=text)

    def seed(self, user_data: str = "#cloud-config\n{}\n", *, instance_id: str = "i-lab", vendor_data: str = "") -> None:
        """Give cloud-init's NoCloud source its seed; a new `instance_id` makes the next boot a first boot to it."""
        for path, text in seed_files(user_data, instance_id, self._hostname, vendor_data).items():
            self.write(path, text)

    def firmware(self, *, cmdline: str = "", dmi: Mapping[str, str] | None = None) -> None:
        """From the next boot on, have this kernel command line and these DMI strings (`{"sys_vendor": ...}`)."""
        for path, text in firmware_files(cmdline, dmi or {}).items():
            self.write(path, text)
        self.run(["systemctl", "--quiet", "enable", FIRMWARE_UNIT])

    def poweroff(self, timeout_seconds: float = 90.0) -> None:
        """Shut down in order; the disk stays as it is for the next `boot`."""
        self.run(["systemctl", "poweroff"], check=False)
        deadline = time.monotonic() + timeout_seconds
        while self.booted:
            if time.monotonic() > deadline:
                words = self.last_words()
                self.kill()
                raise LabError(f"{self.name} had to be killed: no power-off within {timeout_seconds:g} s\n{words}")
            time.sleep(0.02)
        self._leader = 0

    def reboot(self, *, timeout_seconds: float = 150.0, wait: bool = True, degraded: bool = False) -> float:
        """Shut down in order, boot the same disk again, and return the seconds that the boot took."""
        self.poweroff()
        return self.boot(timeout_seconds=timeout_seconds, wait=wait, degraded=degraded)

    def kill(self) -> None:
        """Kill all processes of the machine at once. Its writes stay, synced or not."""
        if self._nspawn is None:
            return
        if self._leader and self._nspawn.alive:
            payload.kill_leader(self._leader)
        self._nspawn.stop(timeout_seconds=10.0)
        self._nspawn, self._leader = None, 0

    def journal(self, *, lines: int = 40, unit: str | None = None) -> str:
        """Return the last lines of the machine's journal, read from its disk, so that the machine need not run."""
        argv = ["journalctl", f"--directory={self.root}/var/log/journal", "--no-pager", "--quiet", f"--lines={lines}"]
        return call([*argv, *([] if unit is None else [f"--unit={unit}"])], check=False).stdout

    def last_words(self, lines: int = 40) -> str:
        """Return the end of the console and of the journal, for the report of a failure."""
        console = self._console.read_text(errors="replace").splitlines()[-8:] if self._console.exists() else []
        return "\n".join((f"--- console of {self.name}", *console, "--- its journal", self.journal(lines=lines)))

    def _nspawn_command(self) -> list[str]:
        network = f"--network-namespace-path={self._network.path}" if self._network else "--private-network"
        return [
            "env", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1",
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--console=passive",
            f"--directory={self.root}", f"--machine={self.name}", f"--hostname={self._hostname}",
            network, *self._options,
        ]  # fmt: skip

    def _wait_for_state(self, deadline: float, wait: bool) -> str:
        """Return the final answer of `systemctl is-system-running`. It fails until the bus is up."""
        while (remaining := deadline - time.monotonic()) > 0:
            argv = ["systemctl", "is-system-running", *(["--wait"] if wait else [])]
            state = self.run(argv, check=False, timeout_seconds=remaining).stdout.strip()
            if state in {"running", "degraded", "maintenance"} or (state in {"starting", "initializing"} and not wait):
                return state
            if not self.booted:
                raise LabError("its systemd ended")
            time.sleep(0.05)
        raise LabError("systemd did not answer in time")
