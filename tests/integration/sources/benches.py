"""One bench a backend: its store on loopback, and how a test writes to it. The contract and fault suites run over all."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from agent import plugins
from agent.places import Places
from agent.sources import BACKENDS, Source, SourceContext
from tests.image.lab.binaries import consul_binary
from tests.servers.cloudfakes import AppConfigFake, KeyVaultFake, SecretManagerFake
from tests.servers.consul import Consul
from tests.servers.stores import Etcd, Moto, Nginx, Redis, Zookeeper
from tests.servers.vaultfake import VaultFake

Tree = dict[str, Any]


class Bench:
    """What the suites need of a store. `port` is None where there is no server to cut off."""

    backend: ClassVar[str]
    watched = False
    precise = True
    keeps = True
    """whether the store's content outlives a restart"""
    tls = False
    http = False
    flat = True
    """whether keys are the store's own, so that a key can clash with a prefix"""
    port: int | None = None
    odd_keys: tuple[str, ...] = ("with space", "ünïcode", "dots.and-dashes", "a=b", "100%", "q?x#y", "[x]*")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.held = ExitStack()
        self.context_seconds = 5.0

    @classmethod
    def missing(cls) -> str:
        """Why it cannot run here, or nothing."""
        return ""

    def begin(self) -> None:
        pass

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        raise NotImplementedError

    def put(self, layer: str, key: str, value: str) -> None:
        raise NotImplementedError

    def drop(self, layer: str, key: str) -> None:
        raise NotImplementedError

    def deny(self, denied: bool) -> None:
        """Make the credential wrong, and right again."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError

    def open(self, port: int | None = None, scheme: str = "http", **more: Any) -> Source:
        """A source on the store, or on a proxy's port before it."""
        kind = plugins.load(BACKENDS, self.backend, "backend")
        options = kind.options_class(**{**self.options(port or self.port or 0, scheme), **more})
        context = SourceContext("bench", Places(), self.context_seconds, poll_seconds=0.5)
        source: Source = kind(options, context)
        self.held.callback(source.close)
        return source

    def secret(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text + "\n")
        return str(path)


class Documents(Bench):
    """Stores in which a layer is one document."""

    flat = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.trees: dict[str, Tree] = {}

    def put(self, layer: str, key: str, value: str) -> None:
        table = self.trees.setdefault(layer, {})
        *path, last = key.split("/")
        for segment in path:
            table = table.setdefault(segment, {})
        table[last] = value
        self.write(layer, json.dumps(self.trees[layer]))

    def drop(self, layer: str, key: str) -> None:
        self.trees.pop(layer, None)
        self.write(layer, None)

    def write(self, layer: str, text: str | None) -> None:
        raise NotImplementedError


class OnDisk(Documents):
    """Documents that are files below `top`."""

    @property
    def top(self) -> Path:
        return self.directory / "site"

    def write(self, layer: str, text: str | None) -> None:
        path = self.top / f"{layer}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink()
        else:
            fresh = path.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(path)


class FileBench(OnDisk):
    backend = "file"
    watched = True

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"path": str(self.top)}


class FileKeysBench(Bench):
    """The other form of `file`: one file a key."""

    backend = "file"
    watched = True
    flat = False
    odd_keys = ("with space", "ünïcode", "dots.and-dashes", "a=b", "100%", "q?x#y", "[x]*")

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"path": str(self.directory / "site")}

    def put(self, layer: str, key: str, value: str) -> None:
        path = self.directory / "site" / layer / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def drop(self, layer: str, key: str) -> None:
        (self.directory / "site" / layer / key).unlink()


class EnvBench(Bench):
    backend = "env"
    odd_keys = ()

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.variables: dict[bytes, bytes] = {b"SITE_OTHER": b"x", b"PATH": b"/bin"}

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"prefix": "CFG_"}

    def open(self, port: int | None = None, scheme: str = "http", **more: Any) -> Source:
        from agent.sources.env import EnvOptions, EnvSource

        return EnvSource(EnvOptions(prefix="CFG_"), SourceContext("bench", Places(), 5.0), self.variables)

    @staticmethod
    def name(layer: str, key: str) -> bytes:
        return f"CFG_{layer}/{key}".replace("/", "__").upper().encode()

    def put(self, layer: str, key: str, value: str) -> None:
        self.variables[self.name(layer, key)] = value.encode()

    def drop(self, layer: str, key: str) -> None:
        del self.variables[self.name(layer, key)]


class ExecBench(OnDisk):
    backend = "exec"

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        script = f'f={self.top}/"$1".json; if [ -e {self.directory}/denied ]; then exit 77; fi; [ ! -e "$f" ] || cat "$f"'
        return {"command": ("/bin/sh", "-c", script, "sh")}

    def deny(self, denied: bool) -> None:
        flag = self.directory / "denied"
        flag.touch() if denied else flag.unlink()


class Served(Bench):
    """Benches with a server process that is stopped and started."""

    server: Any

    def stop(self) -> None:
        self.server.stop()

    def start(self) -> None:
        self.server.start()


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
        return {"url": f"{scheme}://127.0.0.1:{port}/private/{{layer}}.json", "headers_file": headers}

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
        except Exception as error:  # noqa: BLE001 - whatever keeps the binary away is the reason
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
        return {"address": f"{scheme}://127.0.0.1:{port}", "prefix": "site", "token_file": str(self.directory / "token")}

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
            "endpoints": (f"{scheme}://127.0.0.1:{port}",),
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
        return _no_module("redis")

    def begin(self) -> None:
        self.server = self.held.enter_context(Redis(self.directory, password="right"))
        self.port = self.server.port
        self.deny(False)

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        url = f"{'rediss' if scheme == 'https' else 'redis'}://127.0.0.1:{port}/0"
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
    """how often a test asked the server for its counters"""

    @classmethod
    def missing(cls) -> str:
        return _no_module("kazoo") if Zookeeper.installed() else "ZooKeeper is not installed (zookeeper)"

    def begin(self) -> None:
        from kazoo.client import KazooClient

        self.server = self.held.enter_context(Zookeeper(self.directory))
        self.port = self.server.port
        self.client = KazooClient(hosts=f"127.0.0.1:{self.port}", timeout=10, connection_retry={"max_tries": -1})
        self.client.start(10)
        self.held.callback(self.client.close)
        self.held.callback(self.client.stop)

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"hosts": (f"127.0.0.1:{port}",), "prefix": "/site"}

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
        return {"address": f"{scheme}://127.0.0.1:{port}", "prefix": "site", "token_file": token}

    def write(self, layer: str, text: str | None) -> None:
        self.server.kv.setdefault(f"site/{layer}", []).append(json.loads(text) if text is not None else None)

    def deny(self, denied: bool) -> None:
        self.secret("token", "wrong" if denied else "root-token")


class VaultOneBench(VaultBench):
    version = 1


class GcpBench(Served):
    backend = "gcp-secret-manager"
    tls = http = True
    odd_keys = ()

    def begin(self) -> None:
        self.server = self.held.enter_context(SecretManagerFake())
        self.port = self.server.port
        self.deny(False)

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        url = f"{scheme}://127.0.0.1:{port}"
        return {"project": "site", "prefix": "cfg", "endpoint_url": url, "token_file": str(self.directory / "token")}

    def put(self, layer: str, key: str, value: str) -> None:
        self.server.secrets.setdefault(f"cfg/{layer}/{key}".replace("/", "--"), []).append(value.encode())

    def drop(self, layer: str, key: str) -> None:
        del self.server.secrets[f"cfg/{layer}/{key}".replace("/", "--")]

    def deny(self, denied: bool) -> None:
        self.secret("token", "wrong" if denied else self.server.token)


class AzureBench(Served):
    backend = "azure-keyvault"
    tls = http = True
    odd_keys = ()

    def begin(self) -> None:
        self.server = self.held.enter_context(KeyVaultFake())
        self.port = self.server.port
        self.deny(False)

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        self.server.base = f"{scheme}://127.0.0.1:{port}"
        return {"vault_url": self.server.base, "prefix": "cfg", "token_file": str(self.directory / "token")}

    def put(self, layer: str, key: str, value: str) -> None:
        self.server.put(f"cfg/{layer}/{key}".replace("/", "--"), value)

    def drop(self, layer: str, key: str) -> None:
        del self.server.secrets[f"cfg/{layer}/{key}".replace("/", "--")]

    def deny(self, denied: bool) -> None:
        self.secret("token", "wrong" if denied else self.server.token)


class AwsBench(Served):
    """moto's server; `client` is boto3's, for the test's own writing."""

    tls = http = True
    keeps = False
    service: ClassVar[str]

    @classmethod
    def missing(cls) -> str:
        return _no_module("boto3") or ("" if Moto.installed() else "moto[server] is not installed")

    def begin(self) -> None:
        import boto3

        self.server = self.held.enter_context(Moto(self.directory))
        self.port = self.server.port
        self.client = boto3.client(self.service, region_name="eu-central-1", endpoint_url=self.server.url)
        self.prepare()

    def prepare(self) -> None:
        pass

    def start(self) -> None:
        self.server.start()
        self.prepare()

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"region": "eu-central-1", "endpoint_url": f"{scheme}://127.0.0.1:{port}"}


class SsmBench(AwsBench):
    backend = "aws-ssm"
    service = "ssm"
    odd_keys = ("dots.and-dashes",)

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {**super().options(port, scheme), "prefix": "/site"}

    def put(self, layer: str, key: str, value: str) -> None:
        self.client.put_parameter(Name=f"/site/{layer}/{key}", Value=value, Type="SecureString", Overwrite=True)

    def drop(self, layer: str, key: str) -> None:
        self.client.delete_parameter(Name=f"/site/{layer}/{key}")


class SecretsManagerBench(AwsBench, Documents):
    backend = "aws-secretsmanager"
    service = "secretsmanager"

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {**super().options(port, scheme), "prefix": "site"}

    def write(self, layer: str, text: str | None) -> None:
        name = f"site/{layer}"
        if text is None:
            self.client.delete_secret(SecretId=name, RecoveryWindowInDays=7)
            return
        try:
            self.client.put_secret_value(SecretId=name, SecretString=text)
        except self.client.exceptions.ResourceNotFoundException:
            self.client.create_secret(Name=name, SecretString=text)


class S3Bench(AwsBench, Documents):
    backend = "s3"
    service = "s3"

    def prepare(self) -> None:
        self.client.create_bucket(Bucket="site", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {**super().options(port, scheme), "bucket": "site", "prefix": "cfg"}

    def write(self, layer: str, text: str | None) -> None:
        if text is None:
            self.client.delete_object(Bucket="site", Key=f"cfg/{layer}.json")
        else:
            self.client.put_object(Bucket="site", Key=f"cfg/{layer}.json", Body=text.encode())


class DynamodbBench(AwsBench):
    backend = "dynamodb"
    service = "dynamodb"

    def prepare(self) -> None:
        self.client.create_table(
            TableName="site",
            KeySchema=[{"AttributeName": "layer", "KeyType": "HASH"}, {"AttributeName": "key", "KeyType": "RANGE"}],
            AttributeDefinitions=[
                {"AttributeName": "layer", "AttributeType": "S"},
                {"AttributeName": "key", "AttributeType": "S"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {**super().options(port, scheme), "name": "site"}

    def put(self, layer: str, key: str, value: str) -> None:
        self.client.put_item(TableName="site", Item={"layer": {"S": layer}, "key": {"S": key}, "value": {"S": value}})

    def drop(self, layer: str, key: str) -> None:
        self.client.delete_item(TableName="site", Key={"layer": {"S": layer}, "key": {"S": key}})


class AppConfigBench(Served, Documents):
    backend = "aws-appconfig"
    tls = http = True

    @classmethod
    def missing(cls) -> str:
        return _no_module("boto3")

    def begin(self) -> None:
        self.server = self.held.enter_context(AppConfigFake())
        self.port = self.server.port

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        url = f"{scheme}://127.0.0.1:{port}"
        return {"region": "eu-central-1", "endpoint_url": url, "name": "site", "environment": "dev"}

    def write(self, layer: str, text: str | None) -> None:
        if text is None:
            del self.server.profiles[layer]
        else:
            self.server.profiles[layer] = text.encode()


def _no_module(name: str) -> str:
    import importlib.util

    return "" if importlib.util.find_spec(name) else f"{name} is not installed for {sys.executable}"


BENCHES: tuple[type[Bench], ...] = (
    FileBench, FileKeysBench, EnvBench, ExecBench, HttpBench, ConsulBench, EtcdBench, RedisBench, ZookeeperBench, VaultBench,
    VaultOneBench, GcpBench, AzureBench, SsmBench, SecretsManagerBench, S3Bench, DynamodbBench, AppConfigBench,
)  # fmt: skip


def running(kind: type[Bench], directory: Path) -> Iterator[Bench]:
    """The bench with its store up, and gone at the end."""
    bench = kind(directory)
    with bench.held:
        bench.begin()
        yield bench
    shutil.rmtree(directory, ignore_errors=True)
