"""Real stores on loopback, each a process that a test owns: etcd, Redis, nginx, ZooKeeper, dnsmasq, moto."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.servers.processes import Child, ServerError, free_port


class Server:
    """`with Subclass(directory) as server:` starts it. `stop` and `start` keep its port, and its files if it has any."""

    program = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._child: Child | None = None

    @classmethod
    def installed(cls) -> bool:
        return shutil.which(cls.program, path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/bin") is not None

    def argv(self) -> Sequence[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 1):
            return True

    def start(self) -> None:
        """Start the server and wait until it serves, unless it is running."""
        if self._child is not None:
            return
        self._child = Child(self.argv(), self.directory / "log")

        def ready() -> bool:
            try:
                return self.ready()
            except (OSError, ServerError, ValueError):
                return False

        self._child.wait_ready(ready, 40, type(self).__name__)

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def pause(self) -> None:
        """Hang the server: connections are accepted, and requests are not answered."""
        assert self._child is not None
        self._child.pause()

    def resume(self) -> None:
        assert self._child is not None
        self._child.resume()

    def __enter__(self) -> Any:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class Etcd(Server):
    """One member of etcd. `post` sends a request to its JSON gateway."""

    program = "etcd"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._peer = free_port()
        self.token = ""

    def argv(self) -> Sequence[str]:
        client, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self._peer}"
        return [
            "etcd", "--data-dir", str(self.directory / "data"), "--log-level", "error", "--unsafe-no-fsync",
            "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
        ]  # fmt: skip

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        headers = {"Authorization": self.token} if self.token else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def put(self, key: str, value: str | bytes) -> None:
        content = value.encode() if isinstance(value, str) else value
        self.post("/v3/kv/put", {"key": encoded(key), "value": base64.b64encode(content).decode()})

    def delete(self, key: str) -> None:
        self.post("/v3/kv/deleterange", {"key": encoded(key)})

    def ready(self) -> bool:
        try:
            self.post("/v3/kv/range", {"key": encoded("x")})
        except urllib.error.HTTPError as error:
            return error.code in (400, 401)  # authentication is on
        return True


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Redis(Server):
    """Redis. `ask` sends one command and returns the first line of the answer."""

    program = "redis-server"

    def __init__(self, directory: Path, *, notifications: str = "KA", password: str = "") -> None:
        super().__init__(directory)
        self.notifications = notifications
        self.password = password

    def argv(self) -> Sequence[str]:
        secret = ["--requirepass", self.password] if self.password else []
        return [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--appendonly", "yes", "--appendfsync", "always", "--notify-keyspace-events", self.notifications, *secret,
        ]  # fmt: skip

    def ask(self, *words: str | bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 5) as wire, wire.makefile("rb") as answers:
            if self.password:
                wire.sendall(_command(("AUTH", self.password)))
                answers.readline()
            wire.sendall(_command(words))
            line = answers.readline().strip()
        if line.startswith(b"-") or not line:
            raise ServerError(f"Redis refused {words[0]!r}: {line!r}")
        return line

    def ready(self) -> bool:
        return self.ask("PING") == b"+PONG"


def _command(words: Sequence[str | bytes]) -> bytes:
    raw = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw)


class Nginx(Server):
    """nginx serving `root` as JSON, TOML and YAML."""

    program = "nginx"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.root = directory / "root"
        self.root.mkdir(exist_ok=True)

    def argv(self) -> Sequence[str]:
        config = self.directory / "nginx.conf"
        temporary = "\n".join(
            f"{kind}_temp_path {self.directory}/tmp-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            f"""daemon off; master_process off; pid {self.directory}/pid; error_log {self.directory}/error.log;
            events {{}}
            http {{ access_log {self.directory}/access.log; {temporary}
              types {{ application/json json; application/toml toml; application/yaml yaml; text/html html; }}
              server {{ listen 127.0.0.1:{self.port}; root {self.root};
                location /private/ {{ if ($http_x_token != "open sesame") {{ return 403; }} }} }} }}"""
        )
        return ["/usr/sbin/nginx", "-c", str(config), "-p", str(self.directory)]

    def requests(self) -> list[str]:
        return (self.directory / "access.log").read_text().splitlines()


class Zookeeper(Server):
    """A standalone ZooKeeper from Debian's own jars."""

    program = "java"

    @classmethod
    def installed(cls) -> bool:
        return super().installed() and Path("/usr/share/java/zookeeper.jar").exists()

    def argv(self) -> Sequence[str]:
        config = self.directory / "zoo.cfg"
        config.write_text(
            f"tickTime=500\ndataDir={self.directory}/data\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
            "admin.enableServer=false\nminSessionTimeout=1000\n4lw.commands.whitelist=ruok,srvr\n"
        )
        names = ("zookeeper", "zookeeper-jute", "slf4j-api", "slf4j-nop", "netty-all", "netty-handler", "netty-transport",
                 "netty-common", "netty-buffer", "netty-codec", "netty-resolver", "commons-cli", "commons-io",
                 "dropwizard-metrics-core", "metrics-core", "snappy-java", "log4j-1.2", "jline2")  # fmt: skip
        jars = [path for name in names if (path := Path(f"/usr/share/java/{name}.jar")).exists()]
        return [
            "java", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", ":".join(map(str, jars)),
            "org.apache.zookeeper.server.ZooKeeperServerMain", str(config),
        ]  # fmt: skip

    def ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 1) as wire:
            wire.sendall(b"srvr")
            return b"Mode: standalone" in wire.recv(4096)


class Dnsmasq(Server):
    """dnsmasq, answering for example.test from `records`, which are lines of its configuration."""

    program = "dnsmasq"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.records: list[str] = []

    def argv(self) -> Sequence[str]:
        config = self.directory / "dnsmasq.conf"
        config.write_text(
            f"port={self.port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nno-daemon\nuser=root\n"
            "local=/test/\nlocal-ttl=0\n" + "\n".join(self.records) + "\n"
        )
        return ["/usr/sbin/dnsmasq", "--conf-file=" + str(config)]


class Moto(Server):
    """moto's server: the AWS APIs, in memory."""

    program = "true"

    @classmethod
    def installed(cls) -> bool:
        import importlib.util

        return importlib.util.find_spec("moto") is not None and importlib.util.find_spec("flask") is not None

    def argv(self) -> Sequence[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"
