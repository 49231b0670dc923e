"""Run by Debian's Python in a separate network namespace: real cloud-init crawls the emulator, and writes below ROOT.

`crawl.py PLATFORM ROOT FIRMWARE`: FIRMWARE has the DMI strings in JSON. The emulator answers at the address in the platform's
documentation, so that cloud-init needs no configuration. Prints the emulator's violations as JSON.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.servers.metadata import Metadata

SOURCES = {
    "digitalocean": "DigitalOcean",
    "ec2": "Ec2",
    "exoscale": "Exoscale",
    "gce": "GCE",
    "hetzner": "Hetzner",
    "openstack": "OpenStack",
    "oracle": "Oracle",
    "upcloud": "UpCloud",
}
_DMI = {
    "system-manufacturer": "sys_vendor",
    "system-product-name": "product_name",
    "system-serial-number": "product_serial",
    "system-uuid": "product_uuid",
    "chassis-asset-tag": "chassis_asset_tag",
}


def main() -> int:
    platform, root, firmware = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    address = "169.254.169.254"
    for command in (["link", "set", "lo", "up"], ["address", "add", f"{address}/32", "dev", "lo"]):
        subprocess.run(["ip", *command], check=True)
    with Metadata(platform, host=address, port=80) as service:
        crawled = crawl(platform, root, firmware, f"http://{address}")
    print(json.dumps(service.violations))
    return 0 if crawled else 1


def crawl(platform: str, root: Path, firmware: dict[str, str], url: str) -> bool:
    """Run cloud-init's datasource, from the recognition of the platform to instance-data.json."""
    dmi: Any = importlib.import_module("cloudinit.dmi")
    dmi.read_dmi_data = lambda key: firmware.get(_DMI.get(key, ""))
    helpers = importlib.import_module("cloudinit.helpers")
    distros = importlib.import_module("cloudinit.distros")
    paths = helpers.Paths({"cloud_dir": str(root / "var/lib/cloud"), "run_dir": str(root / "run/cloud-init")})
    distro = distros.fetch("debian")("debian", {}, paths)
    name = SOURCES[platform]
    module = importlib.import_module(f"cloudinit.sources.DataSource{name}")
    options: dict[str, Any] = {"max_wait": 5, "timeout": 2, "retries": 1}
    if platform == "gce":
        # The name would need a resolver.
        options["metadata_url"] = f"{url}/computeMetadata/v1/"
    config: dict[str, Any] = {"datasource_list": [name], "datasource": {name: options}}
    _without_dhcp(module)
    source = getattr(module, f"DataSource{name}")(config, distro, paths)
    if platform in ("digitalocean", "upcloud", "hetzner"):
        source.use_ip4LL = source.perform_dhcp_setup = False
    return bool(source.get_data())


def _without_dhcp(module: Any) -> None:
    """Leave out the set-up of an interface: the namespace has no server that leases an address."""
    for name in ("EphemeralDHCPv4", "EphemeralIPv4Network", "EphemeralIPNetwork"):
        if hasattr(module, name):
            setattr(module, name, _Nothing)


class _Nothing:
    def __init__(self, *_: Any, **__: Any) -> None:
        self.imds_url_used = None
        self.interface = "lo"

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: Any) -> None:
        return None


if __name__ == "__main__":
    sys.exit(main())
