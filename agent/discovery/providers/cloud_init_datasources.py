"""The parts of cloud-init's `ds.*` that say what `v1.*` does not: type, image, addresses, tags.

Its shape is each datasource's own and not stable, so each platform's file reads what its datasource passed on, and what
is not there is no fact. Shapes as of cloud-init 22.4 and 25.1.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from agent.discovery.shapes import pick

MEANS_ANOTHER: dict[str, tuple[str, ...]] = {
    # cloud-init puts the region into availability_zone here,
    "digitalocean": ("zone",),
    "upcloud": ("zone",),
    # and the country into region here.
    "vultr": ("region",),
}
"""The facts of `v1.*` that mean something else than elsewhere: left to the metadata service."""


def facts(platform: str, ds: object) -> dict[str, Any]:
    """Facts out of the `ds` of instance-data.json. {} for a datasource whose `ds` says no more than `v1`."""
    reader = _READERS.get(platform)
    if reader is None or not isinstance(ds, Mapping):
        return {}
    meta = ds.get("meta-data", ds.get("meta_data"))
    return reader(ds, meta if isinstance(meta, Mapping) else {})


def _cloud(name: str) -> Any:
    return importlib.import_module(f"agent.discovery.clouds.{name}")


def _ec2(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _cloud("ec2").parse_tree(meta, pick(ds, "dynamic", "instance-identity", "document"))
    return found


def _alibaba(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _cloud("alibaba").parse_tree(meta)
    return found


def _gce(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    # No tags: it keeps the attributes without the network tags, and half a table would hide the whole one.
    return {"hostname": meta.get("local-hostname")}


def _azure(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    imds = meta.get("imds")
    found: dict[str, Any] = _cloud("azure").parse(imds) if isinstance(imds, Mapping) else {}
    found.pop("userdata", None)
    return found


def _openstack(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    cloud, network, tree = _cloud("openstack"), ds.get("network_json"), ds.get("ec2_metadata")
    found: dict[str, Any] = cloud.parse(meta)
    if isinstance(network, Mapping):
        found.update(cloud.parse_network(network))
    found.update({name: value for name, path in cloud.EC2_PATHS.items() if (value := pick(tree, path))})
    return found


def _digitalocean(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _cloud("digitalocean").parse({**meta, "region": meta.get("availability_zone")})
    return found


def _upcloud(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _cloud("upcloud").parse({**meta, "region": meta.get("availability_zone")})
    return found


def _hetzner(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"ipv6": _cloud("hetzner").parse(meta)["ipv6"]}


def _oracle(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _cloud("oracle").parse(ds)
    found.pop("userdata", None)
    return found


def _vultr(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _cloud("vultr").parse(meta)
    found.pop("userdata", None)
    return found


def _scaleway(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _cloud("scaleway").parse(meta)
    return found


def _exoscale(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _cloud("exoscale").parse_tree(meta)
    return found


def _lxd(ds: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"tags": _cloud("lxd").own_keys(ds.get("config"))}


_READERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]] = {
    "alibaba": _alibaba,
    "azure": _azure,
    "digitalocean": _digitalocean,
    "ec2": _ec2,
    "exoscale": _exoscale,
    "gce": _gce,
    "hetzner": _hetzner,
    "lxd": _lxd,
    "openstack": _openstack,
    "oracle": _oracle,
    "scaleway": _scaleway,
    "upcloud": _upcloud,
    "vultr": _vultr,
}
