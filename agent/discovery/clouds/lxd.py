"""LXD and Incus guests: https://documentation.ubuntu.com/lxd/en/latest/dev-lxd/"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from agent.discovery import Context, userdata
from agent.discovery.metadata_client import Service
from agent.discovery.providers.imds import LXD_SOCKET
from agent.discovery.shapes import pick

PREFIX = "user."
_NO_TAGS = ("user.user-data", "user.vendor-data", "user.network-config", "user.meta-data")
_USERDATA = ("cloud-init.user-data", "user.user-data")
MOST_KEYS = 100


class Lxd:
    """Addresses are not on the socket: the `host` provider knows them."""

    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, "http://lxd", unix_socket=str(context.paths.host(LXD_SOCKET))) as service:
            yield parse(service.yaml("/1.0/meta-data") or {})
            yield parse_server(service.json("/1.0") or {})
            keys = [path.rsplit("/", 1)[-1] for path in _list(service, "/1.0/config")]
            wanted = own_keys(dict.fromkeys(keys[:MOST_KEYS]))
            tags = {name: service.text(f"/1.0/config/{PREFIX}{quote(name, safe='')}") for name in wanted}
            yield {"tags": {name: value for name, value in tags.items() if value is not None}}
            for key in _USERDATA:
                if key in keys and (body := service.get(f"/1.0/config/{key}")):
                    yield {"userdata": userdata.userdata(body)}
                    break


def _list(service: Service, path: str) -> list[str]:
    body = service.get(path)
    wrapped = userdata.json_table(b'{"list":' + body + b"}", path) if body else {}
    found = pick(wrapped, "list")
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def parse(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of /1.0/meta-data."""
    return {"instance_id": meta.get("instance-id"), "hostname": meta.get("local-hostname")}


def parse_server(server: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of /1.0: the member of the cluster that the guest runs on is the nearest thing to a zone."""
    location = server.get("location")
    return {
        "zone": location if location != "none" else None,
        "instance_type": server.get("instance_type"),
    }


def own_keys(config: Any) -> dict[str, Any]:
    """The `user.*` keys of a guest's configuration that a user gave, less those that cloud-init reads."""
    found = config if isinstance(config, Mapping) else {}
    return {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX) and key not in _NO_TAGS}
