"""Entries per CPU second: parbake ship, rsyslog's imjournal and systemd-journal-upload on the same journal, in turns.

Run as root: `python3 -m bench.shipping [ENTRIES]`. parbake ships 10 fields over HTTP with 20 secrets to mask, in its
unit's environment; rsyslog forwards over TCP; systemd-journal-upload posts to systemd-journal-remote, and once more to
the receiver that parbake posts to, because a busy receiver slows down who shares caches with it. Only the shipper's own
CPU time counts, and only the ratios carry over to other machines: of the best round each, since what else runs here can
only slow one down.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.servers.journal_directory import WRITER, JournalWriter, entry
from tests.servers.processes import Child, free_port, wait_until
from tests.servers.syslog_daemons import unpacked

ROUNDS = 5
FIELDS = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "_SYSTEMD_UNIT", "_PID", "_UID", "_COMM", "_HOSTNAME"]
FIELDS += ["_TRANSPORT", "_BOOT_ID"]
UPLOAD = "/lib/systemd/systemd-journal-upload"
REPOSITORY = Path(__file__).parent.parent


def write_journal(directory: Path, entries: int) -> None:
    fields = {"_UID": "33", "_GID": "33", "_COMM": "app", "_EXE": "/usr/bin/app", "_TRANSPORT": "stdout"}
    fields |= {"_CMDLINE": "/usr/bin/app --serve", "_SYSTEMD_SLICE": "system.slice", "_MACHINE_ID": "1" * 32}
    fields |= {"_SYSTEMD_CGROUP": "/system.slice/app.service", "_SYSTEMD_INVOCATION_ID": "2" * 32, "SYSLOG_FACILITY": "3"}
    with JournalWriter(directory) as journal:
        for n in range(entries):
            text = f"GET /item/{n} HTTP/1.1 200 {n * 37 % 99991} served by backend web{n % 7} in {n % 900} ms"
            journal.add(entry(n, text, **fields))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads, while it lives."""
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


class Drain:
    """Reads everything that comes, answers 204 to each HTTP request, and counts lines."""

    def __init__(self, *, http: bool) -> None:
        self.lines = 0
        self._http = http
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            wire, _ = self._server.accept()
            threading.Thread(target=self._serve, args=(wire,), daemon=True).start()

    def _serve(self, wire: socket.socket) -> None:
        with wire, wire.makefile("rb") as stream:
            if not self._http:
                while chunk := stream.read1(1 << 16):
                    self.lines += chunk.count(b"\n")
                return
            while stream.readline():
                length: int | None = None
                while (header := stream.readline().strip().lower()) != b"":
                    if header.startswith(b"content-length:"):
                        length = int(header[15:])
                    elif header.startswith(b"expect:"):
                        wire.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                if length is not None:
                    self.lines += stream.read(length).count(b"\n")
                else:  # in chunks, of which the last one is empty
                    while size := int(stream.readline(), 16):
                        self.lines += stream.read(size).count(b"\n")
                        stream.readline()
                    stream.readline()
                wire.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def watched(argv: list[str], scratch: Path, done: Callable[[], bool], environment: Mapping[str, str] | None = None) -> float:
    """The CPU seconds that a program took until `done`."""
    child = Child(argv, scratch / "out.log", env={**os.environ, **(environment or {})})
    try:
        wait_until(lambda: done() or not child.alive, 180, f"{argv[0]} to ship all")
        if not done():
            raise SystemExit(f"{argv[0]} ended too soon:\n{child.log_tail()}")
        return cpu_seconds(child.pid)
    finally:
        child.stop()


def unit_environment() -> dict[str, str]:
    """Return the environment that the service's unit sets."""
    lines = (REPOSITORY / "systemd/parbake-ship.service").read_text().splitlines()
    pairs = [pair for line in lines if line.startswith("Environment=") for pair in line.partition("=")[2].split()]
    return dict(pair.split("=", 1) for pair in pairs)


def parbake(root: Path, scratch: Path, entries: int) -> float:
    drain = Drain(http=True)
    labels = 'labels = { component = "{{ build.component }}" }'
    (root / "etc/parbake").mkdir(parents=True, exist_ok=True)
    (root / "run/parbake").mkdir(parents=True, exist_ok=True)
    (root / "run/parbake/mask").write_text(json.dumps([secrets.token_hex(16) for _ in range(20)]))
    (root / "etc/parbake/parbake.toml").write_text(
        f'[component]\nname = "bench"\n[[sink]]\nname = "s{scratch.name}"\ntype = "http"\n'
        f'url = "http://127.0.0.1:{drain.port}/"\nfields = {json.dumps(FIELDS)}\n{labels}\n'
    )
    # compiled once, as the package ships it
    environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONPYCACHEPREFIX": str(scratch.parent / "compiled")}
    environment |= {"PYTHONDONTWRITEBYTECODE": "", **unit_environment()}
    argv = ["/usr/bin/python3", "-m", "agent", "--root", str(root), "ship"]
    return watched(argv, scratch, lambda: drain.lines >= entries, environment)


def rsyslog(root: Path, scratch: Path, entries: int) -> float:
    drain = Drain(http=False)
    config = scratch / "rsyslog.conf"
    config.write_text(
        f'global(workDirectory="{scratch}")\nmodule(load="imjournal" StateFile="state" Ratelimit.Interval="0")\n'
        f'*.* action(type="omfwd" target="127.0.0.1" port="{drain.port}" protocol="tcp"\n'
        f'  template="RSYSLOG_SyslogProtocol23Format")\n'
    )
    own = unpacked("rsyslog")
    libraries = ":".join(map(str, (*own.glob("usr/lib/*-linux-gnu"), *own.glob("lib/*-linux-gnu"))))
    modules = next(own.glob("usr/lib/*-linux-gnu/rsyslog"))
    run = f"LD_LIBRARY_PATH={libraries} {own}/usr/sbin/rsyslogd -M {modules} -n -f {config} -i {scratch}/pid"
    mount = f"mount --bind {root}/var/log/journal /var/log/journal && exec env {run}"
    return watched(["unshare", "-m", "sh", "-c", mount], scratch, lambda: drain.lines >= entries)


def upload(root: Path, scratch: Path, entries: int) -> float:
    """To the receiver that it is made for, which is busy on the other processor all the while."""
    port, out = free_port(), scratch / "remote"
    out.mkdir()
    receiver = Child([str(WRITER), f"--listen-http={port}", "--split-mode=none", "-o", f"{out}/r.journal"], scratch / "r.log")
    try:
        time.sleep(1)
        return _upload_to(port, root, scratch, entries)
    finally:
        receiver.stop()


def upload_drained(root: Path, scratch: Path, entries: int) -> float:
    """To the receiver that parbake has here, which only reads."""
    return _upload_to(Drain(http=True).port, root, scratch, entries)


def _upload_to(port: int, root: Path, scratch: Path, entries: int) -> float:
    directory = next((root / "var/log/journal").iterdir())
    state = f"--save-state={scratch}/state"
    argv = [UPLOAD, f"--url=http://127.0.0.1:{port}", f"--directory={directory}", state, "--follow=yes"]
    return watched(argv, scratch, lambda: _uploaded(scratch / "state", entries))


def _uploaded(state: Path, entries: int) -> bool:
    try:
        return f";i={entries:x};" in state.read_text()
    except OSError:
        return False


def main() -> None:
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        # imjournal reads the local machine's directory only
        write_journal(root / "var/log/journal" / Path("/etc/machine-id").read_text().strip(), entries)
        Path("/var/log/journal").mkdir(exist_ok=True)
        found: dict[str, list[float]] = {}
        for turn in range(ROUNDS):
            for what in (parbake, rsyslog, upload, upload_drained):
                scratch = root / f"{what.__name__}{turn}"
                scratch.mkdir()
                found.setdefault(what.__name__, []).append(what(root, scratch, entries) / entries)
        own = found["parbake"]
        for label, costs in found.items():
            best, median = (of(costs) / of(own) for of in (min, statistics.median))
            ratios = f"parbake is {best:5.2f} times as fast, by the medians {median:5.2f}"
            print(f"{label:14} {1 / min(costs):9.0f} entries per CPU second; {ratios}")


if __name__ == "__main__":
    main()
