"""Vault, against the fake: every auth method, and tokens and leases that are renewed, and replaced before they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import SourceDenied
from agent.paths import Paths
from agent.sources import SourceContext
from agent.sources.backends.vault import VaultSource
from agent.sources.backends.vault_auth import VaultOptions
from agent.sources.watcher import Watcher
from tests.servers.cloudfakes import MetadataTokens
from tests.servers.fakehttp import Answer, Request
from tests.servers.vaultfake import DENIED, VaultFake


class Policed(VaultFake):
    """Denies the paths in `denied` to every token. `lasting` is the duration in seconds of some paths' leases."""

    def __init__(self) -> None:
        super().__init__()
        self.denied: set[str] = set()
        self.lasting: dict[str, float] = {}
        self.kv["site/common"] = [{"name": "x"}]
        self.kv["site/other"] = [{"name": "y"}]
        self.logins["auth/approle"] = {"role_id": "r"}

    def answer(self, request: Request) -> Answer:
        path = request.path.removeprefix("/v1/")
        self.lease_seconds = self.lasting.get(path, self.lease_seconds)
        answer = super().answer(request)
        return DENIED if path in self.denied and answer[0] != 403 else answer

    def paths(self, part: str) -> list[str]:
        return [request.path for request in self.requests if part in request.path]


@pytest.fixture
def policed() -> Iterator[Policed]:
    with Policed() as made:
        yield made


@pytest.fixture
def vault() -> Iterator[VaultFake]:
    with VaultFake() as made:
        made.kv["site/common"] = [{"db": {"password": "x"}}]
        yield made


@pytest.fixture
def metadata() -> Iterator[MetadataTokens]:
    with MetadataTokens() as made:
        yield made


def open_vault(vault: VaultFake, poll: float = 30.0, **options: Any) -> VaultSource:
    given = VaultOptions(address=vault.url, prefix="site", **options)
    return VaultSource(given, SourceContext("vault", Paths(), 5.0, poll_seconds=poll))


def file(directory: Path, text: str) -> str:
    path = directory / f"file-{abs(hash(text))}"
    path.write_text(text + "\n")
    return str(path)


METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "approle": ({"role_id": "r-1", "secret_id_file": "@s-1"}, {"role_id": "r-1", "secret_id": "s-1"}),
    "jwt": ({"role": "web", "jwt_file": "@j.w.t"}, {"role": "web", "jwt": "j.w.t"}),
    "kubernetes": ({"role": "web", "jwt_file": "@k.8.s"}, {"role": "web", "jwt": "k.8.s"}),
    "gcp": ({"role": "web"}, {"role": "web", "jwt": "jwt-for-vault/web"}),
    "azure": (
        {"role": "web"},
        {"role": "web", "jwt": "eyJ.token", "subscription_id": "sub", "resource_group_name": "group", "vm_name": "vm1"},
    ),
    "aws": ({"role": "web"}, {"role": "web", "iam_http_request_method": "POST"}),
}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_logs_in_once_and_again_when_its_token_is_refused(
    vault: VaultFake, metadata: MetadataTokens, tmp_path: Path, method: str
) -> None:
    """The login is as the documentation describes it; a token that Vault has revoked is replaced by a new login."""
    if method == "aws":
        pytest.importorskip("botocore")
    options, wanted = METHODS[method]
    given: dict[str, Any] = {
        name: file(tmp_path, value[1:]) if value.startswith("@") else value for name, value in options.items()
    }
    vault.logins[f"auth/{method}"] = wanted
    source = open_vault(vault, auth=method, imds_url=metadata.url, **given)
    for _ in range(3):
        assert source.fetch(["common"]).layers[0].tree == {"db": {"password": "x"}}
    logins = [request for request in vault.requests if request.path.endswith("/login")]
    assert len(logins) == 1
    vault.tokens.clear()
    assert source.fetch(["common"]).layers[0].tree == {"db": {"password": "x"}}
    source.close()


def test_a_certificate_is_a_login(vault: VaultFake, tmp_path: Path) -> None:
    """auth = "cert" sends the role's name; the certificate itself goes into the TLS handshake."""
    vault.logins["auth/cert"] = {"name": "web"}
    from tests.servers.faulty import Certificates, Faulty

    certificates = Certificates(tmp_path / "tls")
    with Faulty(vault.port, certificates.good) as proxy:
        certificate, key = map(str, certificates.good)
        options = VaultOptions(
            address=f"https://127.0.0.1:{proxy.port}", prefix="site", auth="cert", role="web",
            ca_file=str(certificates.ca), cert_file=certificate, key_file=key,
        )  # fmt: skip
        source = VaultSource(options, SourceContext("vault", Paths(), 5.0))
        assert source.fetch(["common"]).layers[0].tree == {"db": {"password": "x"}}
        source.close()


def test_a_login_that_is_refused_is_denied_and_not_hammered(vault: VaultFake, tmp_path: Path) -> None:
    """One login a fetch; the secret id's file is read again for the next one."""
    vault.logins["auth/approle"] = {"role_id": "r", "secret_id": "right"}
    path = tmp_path / "secret-id"
    path.write_text("wrong")
    source = open_vault(vault, auth="approle", role_id="r", secret_id_file=str(path))
    with pytest.raises(SourceDenied) as caught:
        source.fetch(["common"])
    assert "wrong" not in str(caught.value)
    assert len(vault.requests) == 1
    path.write_text("right")
    assert source.fetch(["common"]).layers[0].tree is not None
    source.close()


def test_an_options_mistake_is_found_before_anything_is_asked() -> None:
    """A method without a required option is an error of the settings."""
    for options in ({}, {"auth": "approle"}, {"auth": "kubernetes"}, {"auth": "cert"}, {"auth": "jwt", "role": "x"}):
        with pytest.raises(ValueError, match="needs"):
            VaultOptions(address="https://vault:8200", **options)  # type: ignore[arg-type]


def dynamic(vault: VaultFake, tmp_path: Path, **options: Any) -> VaultSource:
    return open_vault(vault, token_file=file(tmp_path, "root-token"), dynamic=("database/creds/web",), **options)


def user(source: VaultSource) -> str:
    tree = source.fetch(["common"]).layers[-1].tree
    assert tree is not None
    return str(tree["dynamic"]["database"]["creds"]["web"]["username"])


def test_a_dynamic_secret_is_asked_for_once_and_renewed(vault: VaultFake, tmp_path: Path) -> None:
    """Three convergences are one database user; its lease is renewed after two thirds of its time."""
    vault.lease_seconds = 1.5
    source = dynamic(vault, tmp_path)
    assert {user(source) for _ in range(3)} == {"v-web-1"}
    seen = source.fetch(["common"])
    assert not source.watch(seen, 2.2)
    renewals = [request for request in vault.requests if request.path == "/v1/sys/leases/renew"]
    assert 1 <= len(renewals) <= 3
    assert user(source) == "v-web-1"
    source.close()


def test_a_lease_near_its_maximum_age_is_replaced_before_it_ends(vault: VaultFake, tmp_path: Path) -> None:
    """The watch asks for a convergence while the old password is still good."""
    vault.lease_seconds, vault.longest_seconds = 1.5, 2.0
    source = dynamic(vault, tmp_path)
    started = time.monotonic()
    seen = source.fetch(["common"])
    first = next(iter(vault.leases))
    while not source.watch(seen, 5.0):
        assert time.monotonic() - started < 5
    assert vault.leases[first][1] > time.monotonic()
    assert user(source) == "v-web-2"
    source.close()


def test_a_token_is_renewed_and_its_leases_go_with_it_when_it_cannot_be(vault: VaultFake, tmp_path: Path) -> None:
    """A token near its end is renewed; one that was revoked is replaced, and so are the secrets that died with it."""
    vault.logins["auth/approle"] = {"role_id": "r"}
    vault.token_seconds = 1.5
    source = open_vault(vault, auth="approle", role_id="r", dynamic=("database/creds/web",))
    assert user(source) == "v-web-1"
    time.sleep(1.1)
    assert user(source) == "v-web-1"
    assert any(request.path == "/v1/auth/token/renew-self" for request in vault.requests)
    vault.tokens.clear()
    assert user(source) == "v-web-2"
    source.close()


def test_close_ends_the_wait_for_a_lease(vault: VaultFake, tmp_path: Path) -> None:
    """A stop of the daemon does not wait for a poll."""
    source = dynamic(vault, tmp_path)
    seen = source.fetch(["common"])
    threading.Timer(0.2, source.close).start()
    started = time.monotonic()
    assert not source.watch(seen, 30)
    assert time.monotonic() - started < 2


def test_a_deleted_version_is_not_a_layer(vault: VaultFake, tmp_path: Path) -> None:
    """KV 2 keeps the metadata of a deleted secret, which is not a layer without keys."""
    vault.kv["site/common"].append(None)
    source = open_vault(vault, token_file=file(tmp_path, "root-token"))
    assert source.fetch(["common"]).layers[0].tree is None
    source.close()


WEB, OPS = "database/creds/web", "database/creds/ops"


def approle(vault: VaultFake, poll: float = 30.0, dynamic: tuple[str, ...] = (WEB,)) -> VaultSource:
    return open_vault(vault, poll, auth="approle", role_id="r", dynamic=dynamic)


def test_a_renewal_that_is_denied_is_a_new_lease_and_no_new_login(policed: Policed) -> None:
    """A policy without sys/leases/renew costs a new secret each time, and nothing else."""
    policed.lease_seconds = 1.0
    policed.denied = {"sys/leases/renew"}
    source = approle(policed)
    assert user(source) == "v-web-1"
    assert source.watch(source.fetch(["common"]), 5.0)
    assert user(source) == "v-web-2"
    assert len(policed.paths("/login")) == 1
    source.close()


def test_a_token_that_is_revoked_while_a_lease_is_due_is_no_bug(policed: Policed) -> None:
    """The watch returns True, and the next fetch logs in and requests the secrets that ended with the token."""
    policed.lease_seconds = 1.5
    source = approle(policed)
    seen = source.fetch(["common"])
    policed.tokens.clear()
    assert source.watch(seen, 5.0)
    assert user(source) == "v-web-2"
    source.close()


def test_a_token_that_is_revoked_between_two_paths_takes_the_first_lease_with_it(policed: Policed) -> None:
    """The snapshot after a new login is whole: no secret of the old token is left in it, and no secret is missing."""
    policed.lasting = {WEB: 3600.0, OPS: 0.6}
    source = approle(policed, dynamic=(WEB, OPS))
    assert user(source) == "v-web-1"
    time.sleep(0.5)
    policed.tokens.clear()
    found = source.fetch([]).layers[-1].tree
    assert found is not None
    assert {name: held["username"] for name, held in found["dynamic"]["database"]["creds"].items()} == {
        "ops": "v-web-3",
        "web": "v-web-4",
    }
    source.close()


def test_a_denied_layer_costs_no_lease(policed: Policed) -> None:
    """A policy that forbids a layer forbids it to every token: the current token and the database users stay."""
    source = approle(policed)
    assert user(source) == "v-web-1"
    policed.denied = {"secret/data/site/other"}
    for _ in range(2):
        with pytest.raises(SourceDenied):
            source.fetch(["common", "other"])
    assert user(source) == "v-web-1"
    assert len(policed.leases) == 1
    source.close()


def test_the_token_is_renewed_between_two_polls(policed: Policed) -> None:
    """Leases end with their token, so one with a shorter life than the poll is renewed for their sake."""
    policed.token_seconds = 1.2
    source = approle(policed, poll=3600.0)
    seen = source.fetch(["common"])
    assert not source.watch(seen, 3.0)
    assert 2 <= len(policed.paths("renew-self")) <= 6
    assert len(policed.paths("/login")) == 1
    assert user(source) == "v-web-1"
    source.close()


def test_a_token_at_its_maximum_age_is_replaced_while_it_is_good(policed: Policed) -> None:
    """The new login and the new secrets come before the old ones end."""
    policed.token_seconds = 1.5
    policed.denied = {"auth/token/renew-self"}
    source = approle(policed, poll=3600.0)
    seen = source.fetch(["common"])
    ends = time.monotonic() + 1.5
    assert source.watch(seen, 5.0)
    assert user(source) == "v-web-2"
    assert time.monotonic() < ends
    source.close()


def test_leases_are_renewed_while_a_layer_is_denied(policed: Policed) -> None:
    """No watch runs and each fetch fails: the application's database user stays valid."""
    policed.lease_seconds = 1.5
    source = approle(policed)
    source.watch(source.fetch(["common"]), 0.1)
    policed.denied = {"secret/data/site/common"}
    with pytest.raises(SourceDenied):
        source.fetch(["common"])
    time.sleep(3.0)
    (_, ends), *others = policed.leases.values()
    assert ends > time.monotonic()
    assert not others
    source.close()


def test_a_poll_that_is_longer_than_a_watch_comes(policed: Policed) -> None:
    """The time of a poll counts from the last fetch, over any number of watches."""
    source = approle(policed, poll=1.0)
    seen = source.fetch(["common"])
    started = time.monotonic()
    while not source.watch(seen, 0.3):
        assert time.monotonic() - started < 5
    assert 0.85 <= time.monotonic() - started <= 1.3
    source.close()


def test_a_poll_without_news_is_one_request_a_layer(policed: Policed) -> None:
    """As the page has it; and it requests no new secret, and triggers no convergence."""
    source = approle(policed, poll=0.5)
    calls: list[str] = []
    layers = ["common", "other"]
    watcher = Watcher("vault", source, 0.5, calls.append)
    watcher.on_converged(source.fetch(layers), layers)
    policed.requests.clear()
    time.sleep(3.2)
    watcher.stop()
    source.close()
    polls = len(policed.paths("/site/common"))
    assert 4 <= polls <= 7
    assert len(policed.requests) == 2 * polls
    assert calls == []
    assert len(policed.leases) == 1


def test_a_bug_in_the_renewals_is_raised_by_the_watch_and_they_go_on(policed: Policed) -> None:
    """An unexpected error does not end the renewals silently: the watch raises it, and the next watch renews again."""
    policed.lease_seconds = 1.5
    source = approle(policed)
    seen = source.fetch(["common"])

    def broken(deadline: float) -> Any:
        raise KeyError("x")

    source._leases.session.auth_headers = broken  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        source.watch(seen, 5.0)
    del source._leases.session.auth_headers
    assert not source.watch(seen, 1.0)
    assert user(source) == "v-web-1"
    assert policed.paths("sys/leases/renew")
    source.close()
