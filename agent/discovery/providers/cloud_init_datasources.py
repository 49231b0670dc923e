"""The parts of cloud-init's `ds.*` that `v1.*` does not have: type, image, addresses, tags.

The shape of `ds` depends on the datasource and is not stable. Each platform's file under `clouds/` parses its own documents,
and an absent key is an absent fact. Shapes as of cloud-init 22.4 and 25.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.discovery.parsers import pick

OTHER_MEANINGS: dict[str, tuple[str, ...]] = {
    # cloud-init writes the region to availability_zone here,
    "digitalocean": ("zone",),
    "upcloud": ("zone",),
    # and the country to region here.
    "vultr": ("region",),
}
"""The facts of `v1.*` that mean something else on a platform. They are left to the metadata service."""

Document = Mapping[str, Any]


def facts(platform: str, ds: object) -> dict[str, object]:
    """Return the facts in the `ds` of instance-data.json, {} for a datasource whose `ds` has no more than `v1`."""
    reader = _READERS.get(platform)
    if reader is None or not isinstance(ds, Mapping):
        return {}
    metadata = ds.get("meta-data", ds.get("meta_data"))
    return reader(ds, metadata if isinstance(metadata, Mapping) else {})


# Each reader imports its platform itself, so that an instance loads the file of one platform only.


def _ec2(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import ec2

    return ec2.parse_tree(metadata, pick(ds, "dynamic", "instance-identity", "document"))


def _alibaba(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import alibaba

    return alibaba.parse_tree(metadata)


def _gce(ds: Document, metadata: Document) -> dict[str, object]:
    # cloud-init keeps the attributes and not the network tags. A partial table would hide the metadata service's.
    return {"hostname": metadata.get("local-hostname")}


def _azure(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import azure

    instance = metadata.get("imds")
    return _without_userdata(azure.parse(instance)) if isinstance(instance, Mapping) else {}


def _openstack(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import openstack

    network, tree = ds.get("network_json"), ds.get("ec2_metadata")
    parsed = openstack.parse(metadata)
    if isinstance(network, Mapping):
        parsed.update(openstack.parse_network(network))
    parsed.update({name: value for name, path in openstack.EC2_PATHS.items() if (value := pick(tree, path))})
    return parsed


def _digitalocean(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import digitalocean

    return digitalocean.parse({**metadata, "region": metadata.get("availability_zone")})


def _upcloud(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import upcloud

    return upcloud.parse({**metadata, "region": metadata.get("availability_zone")})


def _hetzner(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import hetzner

    return {"ipv6": hetzner.parse(metadata)["ipv6"]}


def _oracle(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import oracle

    return _without_userdata(oracle.parse(ds))


def _vultr(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import vultr

    return _without_userdata(vultr.parse(metadata))


def _scaleway(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import scaleway

    return scaleway.parse(metadata)


def _exoscale(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import exoscale

    return exoscale.parse_tree(metadata)


def _lxd(ds: Document, metadata: Document) -> dict[str, object]:
    from agent.discovery.clouds import lxd

    return {"tags": lxd.user_keys(ds.get("config"))}


def _without_userdata(parsed: dict[str, object]) -> dict[str, object]:
    """Return the facts without user-data: cloud-init's merged user-data is more complete than the original."""
    return {name: value for name, value in parsed.items() if name != "userdata"}


_READERS: dict[str, Callable[[Document, Document], dict[str, object]]] = {
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
