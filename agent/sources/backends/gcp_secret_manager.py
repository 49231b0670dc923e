"""`gcp-secret-manager`: the secrets below a prefix, a layer; one list for all layers, and a request for each secret."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from agent.errors import SourceDenied, SourceInvalid
from agent.model import Layer, Snapshot
from agent.net.credentials import read_secret
from agent.net.http_client import Client, Reply, TlsOptions, check_url, json_body
from agent.secret import Secret
from agent.settings.schema import setting
from agent.settings.urls import check_metadata_url
from agent.sources import SourceContext, key_tree
from agent.sources.backends.metadata import Metadata

_MOST_PAGES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpSecretManagerOptions(TlsOptions):
    project: str = setting("the project's id")
    prefix: str = setting("what the names of the secrets begin with", "")
    separator: str = setting("what stands between the segments of a name, and for the slashes of a layer", "--")
    token_file: str = setting("file, or credential:NAME, with an access token; default: the metadata service gives one", "")
    endpoint_url: str = setting("another address of the service", "https://secretmanager.googleapis.com")
    imds_url: str = setting("another address of the metadata service", "")

    def __post_init__(self) -> None:
        check_metadata_url(self.imds_url)
        check_url(self.endpoint_url, "endpoint_url")
        if not self.project or not self.separator:
            raise ValueError("project and separator must not be empty")


class GcpSecretManagerSource:
    """Google Cloud Secret Manager, the latest enabled version of each secret."""

    options_class: ClassVar[type[Any]] = GcpSecretManagerOptions

    def __init__(self, options: GcpSecretManagerOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._metadata = Metadata(options.imds_url, context)
        self._client = Client(context.paths, tls=options, headers=self._headers, stopping=context.stopping)
        self._top = f"{options.endpoint_url.rstrip('/')}/v1/projects/{quote(options.project, safe='')}"

    def _headers(self) -> Mapping[str, str | Secret]:
        if self._options.token_file:
            token = read_secret(self._options.token_file, self._context.paths)
        else:
            token = self._metadata.google_token()
        return {"Authorization": Secret(f"Bearer {token.reveal()}")}

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        deadline = time.monotonic() + self._context.timeout_seconds
        try:
            names = self._names(deadline)
            read = [self._layer(layer, layers, names, deadline) for layer in layers]
        except SourceDenied:
            self._metadata.forget()
            raise
        return Snapshot(tuple(read), key_tree.combined(read), secret=True)

    def _names(self, deadline: float) -> list[str]:
        names: list[str] = []
        query = {"pageSize": "25000", **({"filter": f"name:{self._options.prefix}"} if self._options.prefix else {})}
        for _ in range(_MOST_PAGES):
            answer = self._ask(f"{self._top}/secrets?{urlencode(query)}", deadline)
            try:
                names += [secret["name"].rpartition("/")[2] for secret in answer.get("secrets", [])]
            except (KeyError, TypeError, AttributeError):
                raise SourceInvalid(f"{self._top}/secrets answers with no list of secrets") from None
            if not answer.get("nextPageToken"):
                return names
            query["pageToken"] = str(answer["nextPageToken"])
        raise SourceInvalid(f"{self._top}/secrets has no last page")

    def _layer(self, layer: str, layers: Sequence[str], names: Sequence[str], deadline: float) -> Layer:
        mark = self._options.separator
        prefix = key_tree.joined(self._options.prefix, layer.replace("/", mark), separator=mark)
        start = prefix + mark if prefix else ""
        exclude_prefixes = [other.replace("/", mark) for other in key_tree.nested_layers(layer, layers)]
        pairs, versions = [], []
        for name in sorted(names):
            key = name.removeprefix(start)
            if name.startswith(start) and not any(key.startswith(other) for other in exclude_prefixes):
                found = self._secret(name, deadline)
                if found is not None:
                    pairs.append((key, found[0]))
                    versions.append((name, found[1]))
        tree = key_tree.tree(pairs, mark, f'layer "{layer}"')
        return Layer(layer, tree if pairs else None, key_tree.digest(repr(versions)))

    def _secret(self, name: str, deadline: float) -> tuple[str, str] | None:
        """(value, version); None where no version is enabled."""
        url = f"{self._top}/secrets/{quote(name)}/versions/latest:access"
        answer = self._ask(url, deadline, (200, 400, 404))
        if "payload" not in answer:
            return None
        try:
            value = base64.b64decode(answer["payload"]["data"], validate=True)
            return key_tree.text(value, name), str(answer["name"])
        except (KeyError, TypeError, binascii.Error):
            raise SourceInvalid(f"the secret {name} comes without a value") from None

    def _ask(self, url: str, deadline: float, expect: Sequence[int] = (200,)) -> dict[str, Any]:
        reply: Reply = self._client.request(
            "GET", url, timeout_seconds=self._context.timeout_seconds, deadline=deadline, expect=expect
        )
        answer = json_body(reply)
        if not isinstance(answer, dict) or (reply.status == 400 and not _disabled(answer)):
            raise SourceInvalid(f"{reply.url} answers {reply.status} with something that is not of Secret Manager")
        return answer

    def close(self) -> None:
        self._client.close()
        self._metadata.close()


def _disabled(answer: Mapping[str, Any]) -> bool:
    """FAILED_PRECONDITION: the latest version is disabled or destroyed."""
    error = answer.get("error")
    return isinstance(error, dict) and error.get("status") == "FAILED_PRECONDITION"
