"""Benches of the clouds: moto for AWS, and fakes for Google, Azure, and the APIs that moto does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.integration.sources.benches.base import Documents, Served, no_module
from tests.servers.cloudfakes import AppConfigFake, KeyVaultFake, SecretManagerFake
from tests.servers.stores import Moto


class GcpBench(Served):
    backend = "gcp-secret-manager"
    tls = http = True
    odd_keys = ()

    def begin(self) -> None:
        self.server = self.held.enter_context(SecretManagerFake())
        self.port = self.server.port
        self.deny(False)

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        url = f"{scheme}://{self.host}:{port}"
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
        self.server.base = f"{scheme}://{self.host}:{port}"
        return {"vault_url": self.server.base, "prefix": "cfg", "token_file": str(self.directory / "token")}

    def put(self, layer: str, key: str, value: str) -> None:
        self.server.put(f"cfg/{layer}/{key}".replace("/", "--"), value)

    def drop(self, layer: str, key: str) -> None:
        del self.server.secrets[f"cfg/{layer}/{key}".replace("/", "--")]

    def deny(self, denied: bool) -> None:
        self.secret("token", "wrong" if denied else self.server.token)


class AwsBench(Served):
    """moto's server. `client` is boto3's, for the test's writes. Benches can share one server, `moto`."""

    tls = http = True
    keeps = False
    service: ClassVar[str]
    moto: Moto | None = None

    @classmethod
    def missing(cls) -> str:
        return no_module("boto3") or ("" if Moto.installed() else "moto[server] is not installed")

    def begin(self) -> None:
        import boto3

        self.server = self.moto or self.held.enter_context(Moto(self.directory))
        self.port = self.server.port
        self.client = boto3.session.Session().client(self.service, region_name="eu-central-1", endpoint_url=self.server.url)
        self.prepare()

    def prepare(self) -> None:
        pass

    def start(self) -> None:
        self.server.start()
        self.prepare()

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"region": "eu-central-1", "endpoint_url": f"{scheme}://{self.host}:{port}"}


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
        return {**super().options(port, scheme), "table": "site"}

    def put(self, layer: str, key: str, value: str) -> None:
        self.client.put_item(TableName="site", Item={"layer": {"S": layer}, "key": {"S": key}, "value": {"S": value}})

    def drop(self, layer: str, key: str) -> None:
        self.client.delete_item(TableName="site", Key={"layer": {"S": layer}, "key": {"S": key}})


class AppConfigBench(Served, Documents):
    backend = "aws-appconfig"
    tls = http = True

    @classmethod
    def missing(cls) -> str:
        return no_module("boto3")

    def begin(self) -> None:
        self.server = self.held.enter_context(AppConfigFake())
        self.port = self.server.port

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        url = f"{scheme}://{self.host}:{port}"
        return {"region": "eu-central-1", "endpoint_url": url, "application": "site", "environment": "dev"}

    def write(self, layer: str, text: str | None) -> None:
        if text is None:
            del self.server.profiles[layer]
        else:
            self.server.profiles[layer] = text.encode()
