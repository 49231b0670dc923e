"""Benches of self-hosted stores; that of Vault is a fake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.image.lab.binaries import consul_binary
from tests.integration.sources.benches.base import Bench, Documents, OnDisk, Served, no_module
from tests.servers.consul import Consul
from tests.servers.stores import Dnsmasq, Etcd, Nginx, Redis, Zookeeper
from tests.servers.vaultfake import VaultFake


class HttpBench(Served, OnDisk):
    backend = "http"
    tls = http = True

    @classmethod
    def missing(cls) -> str:
        return "" if Nginx.installed() else "nginx is not installed (nginx-light)"

    @property
    def top(self) -> Path:
        return self.directory / "root/private"

    def begin(self) -> None:
        self.server = self.held.enter_context(Nginx(self.directory))
        self.port = self.server.port
        self.deny(False)

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        headers = str(self.directory / "headers")
        return {"url": f"{scheme}://{self.host}:{port}/private/{{layer}}.json", "headers_file": headers}

    def deny(self, denied: bool) -> None:
        self.secret("headers", "X-Token: wrong" if denied else "X-Token: open sesame\nX-Other: y")


class ConsulBench(Served):
    backend = "consul"
    watched = tls = http = True
    precise = False

    @classmethod
    def missing(cls) -> str:
        try:
            consul_binary()
        except Exception as error:  # noqa: BLE001 - any error is the reason why there is no binary
            return f"no consul: {error}"
        return ""

    def begin(self) -> None:
        acl = {"acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": "root", "agent": "root"}}}
        settings = {**acl, "primary_datacenter": "dc1"}
        self.server = Consul(consul_binary(), self.directory / "consul", settings=settings)
        asked = self.server.request

        def with_token(method: str, path: str, *args: Any, **kwargs: Any) -> Any:
            return asked(method, f"{path}{'&' if '?' in path else '?'}token=root", *args, **kwargs)

        self.server.request = with_token
        self.held.enter_context(self.server)
        self.port = self.server.port
        self.deny(False)

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"address": f"{scheme}://{self.host}:{port}", "prefix": "site", "token_file": str(self.directory / "token")}

    def put(self, layer: str, key: str, value: str) -> None:
        self.server.put(f"site/{layer}/{key}", value)

    def drop(self, layer: str, key: str) -> None:
        self.server.delete(f"site/{layer}/{key}")

    def deny(self, denied: bool) -> None:
        self.secret("token", "00000000-0000-0000-0000-000000000000" if denied else "root")

    def stop(self) -> None:
        self.server.stop(kill=True)


class EtcdBench(Served):
    backend = "etcd"
    watched = tls = http = True

    @classmethod
    def missing(cls) -> str:
        return "" if Etcd.installed() else "etcd is not installed (etcd-server)"

    def begin(self) -> None:
        self.server = self.held.enter_context(Etcd(self.directory))
        self.port = self.server.port
        self.server.post("/v3/auth/user/add", {"name": "root", "password": "right"})
        self.server.post("/v3/auth/user/grant", {"user": "root", "role": "root"})
        self.server.post("/v3/auth/enable", {})
        self._login()
        self.deny(False)

    def _login(self) -> None:
        self.server.token = ""
        self.server.token = self.server.post("/v3/auth/authenticate", {"name": "root", "password": "right"})["token"]

    def start(self) -> None:
        self.server.token = ""
        self.server.start()
        self._login()

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {
            "endpoints": (f"{scheme}://{self.host}:{port}",),
            "prefix": "/site",
            "username": "root",
            "password_file": str(self.directory / "password"),
        }

    def put(self, layer: str, key: str, value: str) -> None:
        self.server.put(f"/site/{layer}/{key}", value)

    def drop(self, layer: str, key: str) -> None:
        self.server.delete(f"/site/{layer}/{key}")

    def deny(self, denied: bool) -> None:
        self.secret("password", "wrong" if denied else "right")


class RedisBench(Served):
    backend = "redis"
    watched = tls = True
    odd_keys = tuple(key.replace(":", "") for key in Bench.odd_keys)

    @classmethod
    def missing(cls) -> str:
        if not Redis.installed():
            return "redis-server is not installed"
        return no_module("redis")

    def begin(self) -> None:
        self.server = self.held.enter_context(Redis(self.directory, password="right"))
        self.port = self.server.port
        self.deny(False)

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        url = f"{'rediss' if scheme == 'https' else 'redis'}://{self.host}:{port}/0"
        return {"url": url, "prefix": "site", "password_file": str(self.directory / "password")}

    def put(self, layer: str, key: str, value: str) -> None:
        self.server.ask("SET", f"site/{layer}/{key}".replace("/", ":"), value)

    def drop(self, layer: str, key: str) -> None:
        self.server.ask("DEL", f"site/{layer}/{key}".replace("/", ":"))

    def deny(self, denied: bool) -> None:
        self.secret("password", "wrong" if denied else "right")


class ZookeeperBench(Served):
    backend = "zookeeper"
    watched = True
    flat = False
    questions = 0
    """the number of times that a test has asked the server for its counters"""

    @classmethod
    def missing(cls) -> str:
        return no_module("kazoo") if Zookeeper.installed() else "ZooKeeper is not installed (zookeeper)"

    def begin(self) -> None:
        from kazoo.client import KazooClient

        self.server = self.held.enter_context(Zookeeper(self.directory))
        self.port = self.server.port
        self.client = KazooClient(hosts=f"127.0.0.1:{self.port}", timeout=10, connection_retry={"max_tries": -1})
        self.client.start(10)
        self.held.callback(self.client.close)
        self.held.callback(self.client.stop)

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"hosts": (f"{self.host}:{port}",), "prefix": "/site"}

    def put(self, layer: str, key: str, value: str) -> None:
        path = f"/site/{layer}/{key}"
        self.client.retry(self.client.ensure_path, path)
        self.client.retry(self.client.set, path, value.encode())

    def drop(self, layer: str, key: str) -> None:
        self.client.delete(f"/site/{layer}", recursive=True)


class VaultBench(Served, Documents):
    backend = "vault"
    tls = http = True
    version = 2

    def begin(self) -> None:
        self.server = self.held.enter_context(VaultFake(self.version))
        self.port = self.server.port
        self.deny(False)

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        token = str(self.directory / "token")
        return {"address": f"{scheme}://{self.host}:{port}", "prefix": "site", "token_file": token}

    def write(self, layer: str, text: str | None) -> None:
        self.server.kv.setdefault(f"site/{layer}", []).append(json.loads(text) if text is not None else None)

    def deny(self, denied: bool) -> None:
        self.secret("token", "wrong" if denied else "root-token")


class VaultOneBench(VaultBench):
    version = 1


class DnsBench(Served):
    """Address records as a service: a layer is a domain, a key a host in it, a value an address."""

    backend = "dns"
    udp = True
    layers = ("dev.test", "web.dev.test")
    shows = "{{ config.services.name[0].address }}"

    @classmethod
    def missing(cls) -> str:
        return no_module("dns") if Dnsmasq.installed() else "dnsmasq is not installed (dnsmasq-base)"

    def begin(self) -> None:
        self.server = self.held.enter_context(Dnsmasq(self.directory))
        self.port = self.server.port

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"services": {"name": "name:80"}, "nameservers": (f"{self.host}:{port}",)}

    def put(self, layer: str, key: str, value: str) -> None:
        self.drop(layer, key)
        self.server.records.append(f"host-record={key}.{layer},{value}")
        self.stop()
        self.start()

    def drop(self, layer: str, key: str) -> None:
        self.server.records = [one for one in self.server.records if not one.startswith(f"host-record={key}.{layer},")]
