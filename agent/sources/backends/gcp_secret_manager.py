"""`gcp-secret-manager`: a layer is the secrets below a prefix. A fetch is one list for all layers and a request a secret."""

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
from agent.net.http_client import Client, TlsOptions, check_url, json_body
from agent.secret import Secret
from agent.settings.schema import setting
from agent.settings.urls import check_metadata_url
from agent.sources import SourceContext, key_tree
from agent.sources.backends.metadata import Metadata

_MAX_PAGES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpSecretManagerOptions(TlsOptions):
    project: str = setting("the project's id")
    prefix: str = setting("the beginning of the secrets' names", "")
    separator: str = setting("the text between the segments of a name, which also replaces a layer's slashes", "--")
    token_file: str = setting("file, or credential:NAME, with an access token; default: from the metadata service", "")
    endpoint_url: str = setting("another address of the service", "https://secretmanager.googleapis.com")
    imds_url: str = setting("another address of the metadata service", "")

    def __post_init__(self) -> None:
        check_metadata_url(self.imds_url)
        check_url(self.endpoint_url, "endpoint_url")
        if not self.project or not self.separator:
            raise ValueError("project and separator must not be empty")


class GcpSecretManagerSource:
    """Google Cloud Secret Manager: the latest version of each secret.

    The API is at https://cloud.google.com/secret-manager/docs/reference/rest.
    """

    options_class: ClassVar[type[GcpSecretManagerOptions]] = GcpSecretManagerOptions

    def __init__(self, options: GcpSecretManagerOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._metadata = Metadata(options.imds_url, context)
        self._client = Client(context.paths, tls=options, headers=self._headers, stopping=context.stopping)
        self._base = f"{options.endpoint_url.rstrip('/')}/v1/projects/{quote(options.project, safe='')}"

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
            fetched = [self._layer(layer, layers, names, deadline) for layer in layers]
        except SourceDenied:
            self._metadata.forget()
            raise
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched), secret=True)

    def _names(self, deadline: float) -> list[str]:
        """Return the names of all secrets that may belong to a layer, sorted."""
        names: list[str] = []
        query = {"pageSize": "25000", **({"filter": f"name:{self._options.prefix}"} if self._options.prefix else {})}
        for _ in range(_MAX_PAGES):
            answer = self._get(f"{self._base}/secrets?{urlencode(query)}", deadline)
            try:
                names += [secret["name"].rpartition("/")[2] for secret in answer.get("secrets", [])]
            except (KeyError, TypeError, AttributeError):
                raise SourceInvalid(f"{self._base}/secrets: the answer is not a list of secrets") from None
            if not answer.get("nextPageToken"):
                return sorted(names)
            query["pageToken"] = str(answer["nextPageToken"])
        raise SourceInvalid(f"{self._base}/secrets: no last page after {_MAX_PAGES} pages")

    def _layer(self, layer: str, layers: Sequence[str], names: Sequence[str], deadline: float) -> Layer:
        separator = self._options.separator
        path = key_tree.join_path(self._options.prefix, layer.replace("/", separator), separator=separator)
        prefix = path + separator if path else ""
        excluded = tuple(nested.replace("/", separator) for nested in key_tree.nested_layers(layer, layers))
        pairs, versions = [], []
        for name in names:
            key = name.removeprefix(prefix)
            if name.startswith(prefix) and not (excluded and key.startswith(excluded)):
                secret = self._secret(name, deadline)
                if secret is not None:
                    value, version = secret
                    pairs.append((key, value))
                    versions.append((name, version))
        tree = key_tree.build_tree(pairs, separator, f'layer "{layer}"')
        return Layer(layer, tree if pairs else None, key_tree.digest(repr(versions)))

    def _secret(self, name: str, deadline: float) -> tuple[str, str] | None:
        """Return (value, version), or None if the latest version is not enabled."""
        url = f"{self._base}/secrets/{quote(name)}/versions/latest:access"
        answer = self._get(url, deadline, (200, 400, 404))
        if "payload" not in answer:
            return None
        try:
            value = base64.b64decode(answer["payload"]["data"], validate=True)
            return key_tree.decode_text(value, name), str(answer["name"])
        except (KeyError, TypeError, binascii.Error):
            raise SourceInvalid(f"the answer for the secret {name} has no value") from None

    def _get(self, url: str, deadline: float, expect: Sequence[int] = (200,)) -> dict[str, Any]:
        reply = self._client.request(
            "GET", url, timeout_seconds=self._context.timeout_seconds, deadline=deadline, expect=expect
        )
        answer = json_body(reply)
        if not isinstance(answer, dict) or (reply.status == 400 and not _is_disabled(answer)):
            raise SourceInvalid(f"{reply.url}: the answer with status {reply.status} is not from Secret Manager")
        return answer

    def close(self) -> None:
        self._client.close()
        self._metadata.close()


def _is_disabled(answer: Mapping[str, Any]) -> bool:
    """Return whether the answer says that the latest version is disabled or destroyed: FAILED_PRECONDITION."""
    error = answer.get("error")
    return isinstance(error, dict) and error.get("status") == "FAILED_PRECONDITION"
