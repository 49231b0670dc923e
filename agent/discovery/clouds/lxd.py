"""LXD and Incus guests: https://documentation.ubuntu.com/lxd/en/latest/dev-lxd/"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from agent.discovery import Context, RawFacts, parsers, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.providers.imds import LXD_SOCKET

PREFIX = "user."
_CLOUD_INIT_KEYS = ("user.user-data", "user.vendor-data", "user.network-config", "user.meta-data")
_USERDATA_KEYS = ("cloud-init.user-data", "user.user-data")
MAX_KEYS = 100


class Lxd:
    """The socket does not provide addresses. They come from the `host` provider."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, "http://lxd", unix_socket=str(context.paths.host(LXD_SOCKET))) as client:
            yield parse(client.yaml("/1.0/meta-data") or {})
            yield parse_server(client.json("/1.0") or {})
            keys = [path.rsplit("/", 1)[-1] for path in _list(client, "/1.0/config")]
            names = user_keys(dict.fromkeys(keys[:MAX_KEYS]))
            tags = {name: client.text(f"/1.0/config/{PREFIX}{quote(name, safe='')}") for name in names}
            yield {"tags": {name: value for name, value in tags.items() if value is not None}}
            for key in _USERDATA_KEYS:
                if key in keys and (body := client.get(f"/1.0/config/{key}")):
                    yield {"userdata": userdata.parbake_table(body)}
                    break


def _list(client: MetadataClient, path: str) -> list[str]:
    body = client.get(path)
    paths = parsers.json_value(body, path) if body else []
    return [item for item in paths if isinstance(item, str)] if isinstance(paths, list) else []


def parse(meta: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of /1.0/meta-data."""
    return {"instance_id": meta.get("instance-id"), "hostname": meta.get("local-hostname")}


def parse_server(server: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of /1.0. The cluster member that the guest runs on serves as the zone."""
    location = server.get("location")
    return {
        "zone": location if location != "none" else None,
        "instance_type": server.get("instance_type"),
    }


def user_keys(config: object) -> dict[str, object]:
    """Return the `user.*` keys of a guest's configuration without their prefix, except for those that cloud-init reads."""
    table = config if isinstance(config, Mapping) else {}
    keys = [key for key in table if key.startswith(PREFIX) and key not in _CLOUD_INIT_KEYS]
    return {key.removeprefix(PREFIX): table[key] for key in keys}
