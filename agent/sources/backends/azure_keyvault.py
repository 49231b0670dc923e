"""`azure-keyvault`: the secrets below a prefix, a layer. A value is asked for again only where the list says it changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from agent.errors import SourceDenied, SourceInvalid
from agent.model import Layer, Snapshot
from agent.net.credentials import read_secret
from agent.net.http_client import Client, TlsOptions, check_url, json_body
from agent.secret import Secret
from agent.settings.schema import setting
from agent.settings.urls import check_metadata_url
from agent.sources import SourceContext, key_tree
from agent.sources.backends.metadata import Metadata

_VERSION = "api-version=7.4"
_MOST_PAGES = 10_000
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureKeyvaultOptions(TlsOptions):
    vault_url: str = setting("the vault, such as https://site.vault.azure.net")
    prefix: str = setting("what the names of the secrets begin with", "")
    separator: str = setting("what stands between the segments of a name, and for the slashes of a layer", "--")
    resource: str = setting("whom the token is for; another one in sovereign clouds", "https://vault.azure.net")
    client_id: str = setting("the user-assigned identity; default: the system-assigned one", "")
    token_file: str = setting("file, or credential:NAME, with an access token; default: the metadata service gives one", "")
    imds_url: str = setting("another address of the metadata service", "")

    def __post_init__(self) -> None:
        check_metadata_url(self.imds_url)
        check_url(self.vault_url, "vault_url")
        if not self.separator:
            raise ValueError("separator must not be empty")


class AzureKeyvaultSource:
    """Azure Key Vault, the current version of each enabled secret. Its names know no case."""

    options_class: ClassVar[type[Any]] = AzureKeyvaultOptions

    def __init__(self, options: AzureKeyvaultOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._metadata = Metadata(options.imds_url, context)
        self._client = Client(context.paths, tls=options, headers=self._headers, stopping=context.stopping)
        self._top = options.vault_url.rstrip("/")
        self._known: dict[str, tuple[str, str]] = {}

    def _headers(self) -> Mapping[str, str | Secret]:
        if self._options.token_file:
            token = read_secret(self._options.token_file, self._context.paths)
        else:
            token = self._metadata.azure_token(self._options.resource, self._options.client_id)
        return {"Authorization": Secret(f"Bearer {token.reveal()}")}

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        deadline = time.monotonic() + self._context.timeout_seconds
        try:
            listed = self._list(deadline)
            read = [self._layer(layer, layers, listed, deadline) for layer in layers]
        except SourceDenied:
            self._metadata.forget()
            raise
        self._known = {name: known for name, known in self._known.items() if name in listed}
        return Snapshot(tuple(read), key_tree.combined(read), secret=True)

    def _list(self, deadline: float) -> dict[str, str]:
        """The enabled secrets, with a word that changes with their value."""
        listed: dict[str, str] = {}
        url = f"{self._top}/secrets?{_VERSION}&maxresults=25"
        for _ in range(_MOST_PAGES):
            answer = self._ask(url, deadline)
            try:
                for secret in answer["value"]:
                    attributes = secret.get("attributes", {})
                    if attributes.get("enabled", True):
                        listed[secret["id"].rstrip("/").rpartition("/")[2]] = str(attributes.get("updated", ""))
            except (KeyError, TypeError, AttributeError):
                raise SourceInvalid(f"{self._top}/secrets answers with no list of secrets") from None
            url = str(answer.get("nextLink") or "")
            if not url:
                return listed
            if _origin(url) != _origin(self._top):
                raise SourceInvalid(f"{self._top}/secrets goes on at another host, which gets no token")
        raise SourceInvalid(f"{self._top}/secrets has no last page")

    def _layer(self, layer: str, layers: Sequence[str], listed: Mapping[str, str], deadline: float) -> Layer:
        mark = self._options.separator
        prefix = key_tree.joined(self._options.prefix, layer.replace("/", mark), separator=mark)
        start = prefix + mark if prefix else ""
        exclude_prefixes = [other.replace("/", mark) for other in key_tree.nested_layers(layer, layers)]
        pairs, versions = [], []
        for name, updated in sorted(listed.items()):
            key = name.removeprefix(start)
            if name.startswith(start) and not any(key.startswith(other) for other in exclude_prefixes):
                pairs.append((key, self._value(name, updated, deadline)))
                versions.append((name, updated))
        tree = key_tree.tree(pairs, mark, f'layer "{layer}"')
        return Layer(layer, tree if pairs else None, key_tree.digest(repr(pairs)))

    def _value(self, name: str, updated: str, deadline: float) -> str:
        known = self._known.get(name)
        if known is not None and updated and known[0] == updated and not self._recent(updated):
            return known[1]
        answer = self._ask(f"{self._top}/secrets/{name}?{_VERSION}", deadline)
        if not isinstance(answer.get("value"), str):
            raise SourceInvalid(f"the secret {name} comes without a value")
        self._known[name] = (updated, answer["value"])
        return str(answer["value"])

    @staticmethod
    def _recent(updated: str) -> bool:
        """Times are whole seconds: two changes within one look the same, so a young one is not believed."""
        return not updated.isdigit() or time.time() - int(updated) < 120

    def _ask(self, url: str, deadline: float) -> dict[str, Any]:
        reply = self._client.request("GET", url, timeout_seconds=self._context.timeout_seconds, deadline=deadline)
        answer = json_body(reply)
        if not isinstance(answer, dict):
            raise SourceInvalid(f"{reply.url} answers with something that is not of Key Vault")
        return answer

    def close(self) -> None:
        self._client.close()
        self._metadata.close()


def _origin(url: str) -> tuple[str, str, str, int] | None:
    """To whom a URL leads; Azure's own next links carry the port that the vault's URL leaves out. A name and a password
    in it count too: they would take the place of the token."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.netloc.rpartition("@")[0], parts.hostname or "", parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
