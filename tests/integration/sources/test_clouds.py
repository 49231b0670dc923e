"""Properties of the clouds' stores alone: types, pages, credentials of the platform, conditional requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import SourceDenied, SourceInvalid
from agent.paths import Paths
from agent.sources import SourceContext
from agent.sources.backends.azure_keyvault import AzureKeyvaultOptions, AzureKeyvaultSource
from agent.sources.backends.gcp_secret_manager import GcpSecretManagerOptions, GcpSecretManagerSource
from tests.integration.sources.benches import AppConfigBench, Bench, DynamodbBench, S3Bench, SsmBench, running
from tests.servers.cloudfakes import KeyVaultFake, MetadataTokens, SecretManagerFake

CONTEXT = SourceContext("cloud", Paths(), 5.0)


@pytest.fixture
def metadata() -> Iterator[MetadataTokens]:
    with MetadataTokens() as made:
        yield made


@pytest.fixture
def on(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run the bench that the test names."""
    kind: type[Bench] = request.param
    if reason := kind.missing():
        pytest.skip(reason)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    yield from running(kind, tmp_path / "bench")


def test_google_asks_the_metadata_service_once_and_reads_every_page(metadata: MetadataTokens) -> None:
    """One token for many requests; seven secrets on three pages; one whose versions are all disabled is absent."""
    with SecretManagerFake() as store:
        store.secrets = {f"cfg--common--k{number}": [b"old", b"v%d" % number] for number in range(7)}
        store.secrets["cfg2--other"] = [b"x"]
        store.disabled = {"cfg--common--k6"}
        options = GcpSecretManagerOptions(project="site", prefix="cfg", endpoint_url=store.url, imds_url=metadata.url)
        source = GcpSecretManagerSource(options, CONTEXT)
        assert source.fetch(["common"]).layers[0].tree == {f"k{number}": f"v{number}" for number in range(6)}
        source.fetch(["common"])
        assert len(metadata.requests) == 1
        source.close()


def test_a_token_that_the_cloud_refuses_is_fetched_anew(metadata: MetadataTokens) -> None:
    """A rotated service account is denied once, and then works without a restart."""
    with SecretManagerFake() as store:
        store.secrets["cfg--a"] = [b"1"]
        options = GcpSecretManagerOptions(project="site", prefix="cfg", endpoint_url=store.url, imds_url=metadata.url)
        source = GcpSecretManagerSource(options, CONTEXT)
        source.fetch([""])
        store.token = metadata.google = "ya29.other"
        with pytest.raises(SourceDenied):
            source.fetch([""])
        assert source.fetch([""]).layers[0].tree == {"a": "1"}
        source.close()


def test_azure_reads_only_secrets_that_the_list_reports_as_changed(metadata: MetadataTokens) -> None:
    """Five old secrets are three pages and five values at first, and three pages afterwards."""
    with KeyVaultFake() as store:
        for number in range(5):
            store.put(f"cfg--common--k{number}", f"v{number}", age_seconds=3600)
        options = AzureKeyvaultOptions(vault_url=store.url, prefix="cfg", imds_url=metadata.url)
        source = AzureKeyvaultSource(options, CONTEXT)
        first = source.fetch(["common"])
        assert first.layers[0].tree == {f"k{number}": f"v{number}" for number in range(5)}
        before = len(store.requests)
        assert source.fetch(["common"]) == first
        assert len(store.requests) - before == 3
        store.put("cfg--common--k0", "new")
        assert source.fetch(["common"]).layers[0].tree != first.layers[0].tree
        assert len(metadata.requests) == 1
        source.close()


def test_azure_sends_its_token_to_no_other_host(metadata: MetadataTokens) -> None:
    """A next page at another host is refused."""
    with KeyVaultFake() as store, KeyVaultFake() as other:
        for number in range(3):
            store.put(f"cfg--k{number}", "v")
        store.base = other.url
        options = AzureKeyvaultOptions(vault_url=store.url, prefix="cfg", imds_url=metadata.url)
        source = AzureKeyvaultSource(options, CONTEXT)
        with pytest.raises(SourceInvalid, match="another host"):
            source.fetch([""])
        assert not other.requests
        source.close()


def test_an_instance_without_an_identity_is_denied_with_a_hint(metadata: MetadataTokens) -> None:
    """The error explains the metadata service's 400."""
    metadata.azure = ""
    options = AzureKeyvaultOptions(vault_url="http://127.0.0.1:1", imds_url=metadata.url)
    source = AzureKeyvaultSource(options, CONTEXT)
    with pytest.raises(SourceDenied, match="no credentials") as caught:
        source.fetch([""])
    assert caught.value.hint
    source.close()


@pytest.mark.parametrize("on", [DynamodbBench], indirect=True)
def test_dynamodb_keeps_its_types(on: DynamodbBench) -> None:
    """Numbers, booleans, lists and maps keep their types, and a missing attribute is an error."""
    value = {"M": {"n": {"N": "7"}, "f": {"N": "1.5"}, "t": {"BOOL": True}, "l": {"L": [{"S": "a"}, {"NULL": True}]}}}
    on.client.put_item(TableName="site", Item={"layer": {"S": "common"}, "key": {"S": "a/b"}, "value": value})
    tree = on.open().fetch(["common"]).layers[0].tree
    assert tree == {"a": {"b": {"n": 7, "f": 1.5, "t": True, "l": ["a", None]}}}
    on.client.put_item(TableName="site", Item={"layer": {"S": "common"}, "key": {"S": "c"}})
    with pytest.raises(SourceInvalid, match="value"):
        on.open().fetch(["common"])


@pytest.mark.parametrize("on", [SsmBench], indirect=True)
def test_ssm_reads_all_pages_and_string_lists(on: SsmBench) -> None:
    """Thirty parameters are three answers; a StringList is a list."""
    for number in range(29):
        on.put("common", f"k{number:02}", str(number))
    on.client.put_parameter(Name="/site/common/servers", Value="a,b", Type="StringList")
    tree = on.open().fetch(["common"]).layers[0].tree
    assert tree == {**{f"k{number:02}": str(number) for number in range(29)}, "servers": ["a", "b"]}


@pytest.mark.parametrize("on", [SsmBench], indirect=True)
def test_the_role_of_the_instance_is_asked_through_the_guarded_client(
    on: SsmBench, metadata: MetadataTokens, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without other credentials those of the metadata service are used, and no proxy of the environment."""
    on.put("common", "a", "1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", f"127.0.0.1:{on.port}")
    assert on.open(imds_url=metadata.url).fetch(["common"]).layers[0].tree == {"a": "1"}
    assert {request.path.split("/")[2] for request in metadata.requests} == {"api", "meta-data"}
    metadata.aws = False
    with pytest.raises(SourceDenied, match="no credentials"):
        on.open(imds_url=metadata.url).fetch(["common"])


@pytest.mark.parametrize("on", [S3Bench], indirect=True)
def test_s3_reads_an_object_again_only_when_it_changed(on: S3Bench) -> None:
    """The last ETag is a condition, and the answer 304 gives the cached layer."""
    on.put("common", "a", "1")
    source = on.open()
    first = source.fetch(["common"])
    assert source.fetch(["common"]).layers[0] is first.layers[0]
    on.put("common", "a", "2")
    assert source.fetch(["common"]).layers[0].tree == {"a": "2"}


@pytest.mark.parametrize("on", [AppConfigBench], indirect=True)
def test_appconfig_asks_with_the_token_of_the_answer_before(on: AppConfigBench) -> None:
    """One session serves many polls, and an empty answer is the cached layer, not an empty one."""
    on.put("web", "a", "1")
    source = on.open()
    for _ in range(3):
        assert source.fetch(["web"]).layers[0].tree == {"a": "1"}
    assert sum(request.path == "/configurationsessions" for request in on.server.requests) == 1
    assert sum(request.path == "/configuration" for request in on.server.requests) == 3
