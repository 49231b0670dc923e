"""`azure-keyvault`: a layer is the secrets below a prefix. A value is read again only if the list says that it changed."""

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
_MAX_PAGES = 10_000
_PORTS = {"http": 80, "https": 443}
_RECENT_SECONDS = 120
"""Times of change are whole seconds, so that a later change within the same second cannot be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureKeyvaultOptions(TlsOptions):
    vault_url: str = setting("the vault, such as https://site.vault.azure.net")
    prefix: str = setting("the beginning of the secrets' names", "")
    separator: str = setting("the text between the segments of a name, which also replaces a layer's slashes", "--")
    resource: str = setting("the audience of the token; sovereign clouds have another one", "https://vault.azure.net")
    client_id: str = setting("the user-assigned identity; default: the system-assigned one", "")
    token_file: str = setting("file, or credential:NAME, with an access token; default: from the metadata service", "")
    imds_url: str = setting("another address of the metadata service", "")

    def __post_init__(self) -> None:
        check_metadata_url(self.imds_url)
        check_url(self.vault_url, "vault_url")
        if not self.separator:
            raise ValueError("separator must not be empty")


class AzureKeyvaultSource:
    """Azure Key Vault: the current version of each enabled secret. Secret names are case-insensitive.

    The API is at https://learn.microsoft.com/rest/api/keyvault/secrets/.
    """

    options_class: ClassVar[type[AzureKeyvaultOptions]] = AzureKeyvaultOptions

    def __init__(self, options: AzureKeyvaultOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._metadata = Metadata(options.imds_url, context)
        self._client = Client(context.paths, tls=options, headers=self._headers, stopping=context.stopping)
        self._base = options.vault_url.rstrip("/")
        self._cached: dict[str, tuple[str, str]] = {}
        """Secret -> (time of change, value)."""

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
            fetched = [self._layer(layer, layers, listed, deadline) for layer in layers]
        except SourceDenied:
            self._metadata.forget()
            raise
        self._cached = {name: cached for name, cached in self._cached.items() if name in listed}
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched), secret=True)

    def _list(self, deadline: float) -> dict[str, str]:
        """Return the enabled secrets, each with its time of change."""
        listed: dict[str, str] = {}
        url = f"{self._base}/secrets?{_VERSION}&maxresults=25"
        for _ in range(_MAX_PAGES):
            answer = self._get(url, deadline)
            try:
                for secret in answer["value"]:
                    attributes = secret.get("attributes", {})
                    if attributes.get("enabled", True):
                        listed[secret["id"].rstrip("/").rpartition("/")[2]] = str(attributes.get("updated", ""))
            except (KeyError, TypeError, AttributeError):
                raise SourceInvalid(f"{self._base}/secrets: the answer is not a list of secrets") from None
            url = str(answer.get("nextLink") or "")
            if not url:
                return listed
            if _origin(url) != _origin(self._base):
                raise SourceInvalid(f"{self._base}/secrets: the next page is at another host, which gets no token")
        raise SourceInvalid(f"{self._base}/secrets: no last page after {_MAX_PAGES} pages")

    def _layer(self, layer: str, layers: Sequence[str], listed: Mapping[str, str], deadline: float) -> Layer:
        separator = self._options.separator
        path = key_tree.join_path(self._options.prefix, layer.replace("/", separator), separator=separator)
        prefix = path + separator if path else ""
        excluded = tuple(nested.replace("/", separator) for nested in key_tree.nested_layers(layer, layers))
        pairs = []
        for name, updated in sorted(listed.items()):
            key = name.removeprefix(prefix)
            if name.startswith(prefix) and not (excluded and key.startswith(excluded)):
                pairs.append((key, self._value(name, updated, deadline)))
        tree = key_tree.build_tree(pairs, separator, f'layer "{layer}"')
        return Layer(layer, tree if pairs else None, key_tree.digest(repr(pairs)))

    def _value(self, name: str, updated: str, deadline: float) -> str:
        cached = self._cached.get(name)
        if cached is not None and updated and cached[0] == updated and not _is_recent(updated):
            return cached[1]
        answer = self._get(f"{self._base}/secrets/{name}?{_VERSION}", deadline)
        if not isinstance(answer.get("value"), str):
            raise SourceInvalid(f"the answer for the secret {name} has no value")
        self._cached[name] = (updated, answer["value"])
        return str(answer["value"])

    def _get(self, url: str, deadline: float) -> dict[str, Any]:
        reply = self._client.request("GET", url, timeout_seconds=self._context.timeout_seconds, deadline=deadline)
        answer = json_body(reply)
        if not isinstance(answer, dict):
            raise SourceInvalid(f"{reply.url}: the answer is not from Key Vault")
        return answer

    def close(self) -> None:
        self._client.close()
        self._metadata.close()


def _is_recent(updated: str) -> bool:
    """Return whether a secret changed so recently that its time of change may not identify its value."""
    return not updated.isdigit() or time.time() - int(updated) < _RECENT_SECONDS


def _origin(url: str) -> tuple[str, str, str, int] | None:
    """Return the parts of a URL that decide who gets the token, or None for an invalid URL.

    The port is filled in, because Azure's next links carry it and the vault's URL does not. A user and a password count,
    because they would replace the token.
    """
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.netloc.rpartition("@")[0], parts.hostname or "", parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
