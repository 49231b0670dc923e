"""Real syslog receivers, Debian's rsyslog and syslog-ng, which write the messages that they have parsed as lines of JSON.

The packages conflict with each other and with whatever logs on this machine, and would start a service. So they are
unpacked into the lab's cache with the libraries that they need, and are never installed.
"""

from __future__ import annotations

import functools
import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.image.lab.apt import download_all
from tests.image.lab.cache import made_once
from tests.image.lab.commands import LabError, call
from tests.servers.processes import Child, free_port

_PACKAGES = {
    "rsyslog": ("rsyslog", "rsyslog-gnutls", "libestr0", "libfastjson4", "liblognorm5"),
    "syslog-ng": ("syslog-ng-core", "libivykis0", "libnet1", "libjson-c5", "libwrap0", "libpcre3", "libglib2.0-0"),
}
MESSAGE_MAX = 256 * 1024


def unpacked(name: str) -> Path:
    """The root directory of the unpacked packages of `rsyslog` or `syslog-ng`.

    Raises LabError if the machine's mirror does not have them: they are from Debian 12.
    """

    def unpack(directory: Path) -> None:
        for package in download_all(_PACKAGES[name], "bookworm", directory):
            call(["dpkg", "-x", str(package), str(directory / "root")])
            package.unlink()

    return made_once(f"{name}-bookworm", unpack) / "root"


@functools.cache
def missing(name: str) -> str:
    """Return why `rsyslog` or `syslog-ng` is not available here; "" if it is."""
    try:
        unpacked(name)
    except LabError as error:
        return f"{name} cannot be unpacked: {error}"
    return ""


class SyslogDaemon:
    """`with Rsyslog(directory) as server:` listens on `server.port`; `rows()` returns the messages that it has written so far.

    `tls` are the server's certificate and key, `ca` the authority of its clients, who then must show a certificate.
    `message_max` None leaves the limit that the daemon ships with.
    """

    name = ""

    def __init__(
        self,
        directory: Path,
        *,
        tls: tuple[Path, Path] | None = None,
        ca: Path | None = None,
        message_max: int | None = MESSAGE_MAX,
    ) -> None:
        self.port = free_port()
        self._directory = directory
        self._root = unpacked(self.name)
        self._out = directory / "received.json"
        self._config = directory / f"{self.name}.conf"
        self._child: Child | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._config.write_text(self.configuration(tls, ca, message_max))

    def configuration(self, tls: tuple[Path, Path] | None, ca: Path | None, message_max: int | None) -> str:
        raise NotImplementedError

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def row(self, line: Mapping[str, Any]) -> dict[str, str]:
        """The message as MESSAGE, the head's fields and the structured data of one line."""
        raise NotImplementedError

    def start(self) -> None:
        library = self._root / "usr/lib"
        paths = (*library.glob("*-linux-gnu"), *(self._root / "lib").glob("*-linux-gnu"), library / "syslog-ng")
        env = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, paths))}
        self._child = Child(self.command(), self._directory / f"{self.name}.log", env=env)
        self._child.wait_ready(self._listening, 20, f"{self.name} to listen")

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(10)

    def kill(self) -> None:
        assert self._child is not None
        self._child.kill()

    def rows(self) -> list[dict[str, str]]:
        whole = self._out.read_bytes().rpartition(b"\n")[0] if self._out.exists() else b""
        return [self.row(json.loads(line)) for line in whole.splitlines()]

    def messages(self) -> list[str]:
        return [row["MESSAGE"] for row in self.rows()]

    def log(self) -> str:
        return (self._directory / f"{self.name}.log").read_text(errors="replace")

    def _listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> SyslogDaemon:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class Rsyslog(SyslogDaemon):
    """rsyslog's imtcp, with TLS by its gtls driver; the structured data as mmpstrucdata reads it."""

    name = "rsyslog"

    def configuration(self, tls: tuple[Path, Path] | None, ca: Path | None, message_max: int | None) -> str:
        files, driver = "", ""
        if tls is not None:
            trusted = f'defaultNetstreamDriverCAFile="{ca}"' if ca else ""
            files = f'defaultNetstreamDriverCertFile="{tls[0]}" defaultNetstreamDriverKeyFile="{tls[1]}" {trusted}'
            mode = 'streamDriver.authMode="x509/name" permittedPeer=["localhost"]' if ca else 'streamDriver.authMode="anon"'
            driver = f'streamDriver.name="gtls" streamDriver.mode="1" {mode}'
        size = f'maxMessageSize="{message_max}"' if message_max else ""
        return f"""
global(workDirectory="{self._directory}" parser.escapeControlCharactersOnReceive="off" {size} {files})
module(load="imtcp" {driver})
module(load="mmpstrucdata")
template(name="json" type="list") {{
    constant(value="{{")
    property(outname="MESSAGE" name="msg" format="jsonf")
    constant(value=",") property(outname="severity" name="syslogseverity" format="jsonf")
    constant(value=",") property(outname="facility" name="syslogfacility" format="jsonf")
    constant(value=",") property(outname="host" name="hostname" format="jsonf")
    constant(value=",") property(outname="app" name="app-name" format="jsonf")
    constant(value=",") property(outname="pid" name="procid" format="jsonf")
    constant(value=",") property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
    constant(value=",\\"all\\":") property(name="$!")
    constant(value="}}\\n")
}}
input(type="imtcp" address="127.0.0.1" port="{self.port}" ruleset="received")
ruleset(name="received") {{
    action(type="mmpstrucdata" sd_name.lowercase="off")
    action(type="omfile" file="{self._out}" template="json" fileCreateMode="0600")
}}
syslog.* action(type="omfile" file="{self._directory}/own.log")
"""

    def command(self) -> Sequence[str]:
        modules = next((self._root / "usr/lib").glob("*-linux-gnu/rsyslog"))
        program = str(self._root / "usr/sbin/rsyslogd")
        return [program, "-n", "-f", str(self._config), "-i", str(self._directory / "pid"), "-M", str(modules)]

    def row(self, line: Mapping[str, Any]) -> dict[str, str]:
        data = (line["all"] or {}).get("rfc5424-sd", {}).get("parbake@32473", {})
        return {**{name: value for name, value in line.items() if name != "all"}, **data}


class SyslogNg(SyslogDaemon):
    """syslog-ng's syslog() source: octet counting over TCP or TLS; the structured data as format-json writes it."""

    name = "syslog-ng"

    def configuration(self, tls: tuple[Path, Path] | None, ca: Path | None, message_max: int | None) -> str:
        transport = 'transport("tcp")'
        if tls is not None:
            trusted = f'ca-file("{ca}") peer-verify(required-trusted)' if ca else "peer-verify(optional-untrusted)"
            transport = f'transport("tls") tls(cert-file("{tls[0]}") key-file("{tls[1]}") {trusted})'
        size = f"log-msg-size({message_max});" if message_max else ""
        keys = "MESSAGE=$MESSAGE severity=$LEVEL_NUM facility=$FACILITY_NUM host=$HOST app=$PROGRAM pid=$PID time=$ISODATE"
        return f"""@version: 3.35
options {{ keep-hostname(yes); use-dns(no); {size} stats-freq(0); time-reap(1); }};
source received {{ syslog(ip("127.0.0.1") port({self.port}) {transport}); }};
destination json {{ file("{self._out}" template("$(format-json --key .SDATA.* {keys})\\n") flush-lines(1)); }};
log {{ source(received); destination(json); }};
"""

    def command(self) -> Sequence[str]:
        modules = next((self._root / "usr/lib/syslog-ng").glob("3.*"))
        own = [f"--{name}={self._directory}/{name}" for name in ("persist-file", "control", "pidfile")]
        program = str(self._root / "usr/sbin/syslog-ng")
        return [program, "-F", "--no-caps", f"--module-path={modules}", "-f", str(self._config), *own]

    def row(self, line: Mapping[str, Any]) -> dict[str, str]:
        data = line.get("_SDATA", line.get("SDATA", {})).get("parbake@32473", {})
        return {**{name: value for name, value in line.items() if "SDATA" not in name}, **data}
