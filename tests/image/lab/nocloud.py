"""The seed of cloud-init's NoCloud source, on a machine without a cloud and without udev."""

from __future__ import annotations

# The network exists before the boot, without udev. The images have no locales to generate and no OpenSSH that needs host
# keys, and they keep their mirror.
_SETTINGS = """\
datasource_list: [ NoCloud, None ]
network: {config: disabled}
locale: C.UTF-8
apt: {preserve_sources_list: true}
ssh_deletekeys: false
ssh_genkeytypes: [ed25519]
"""


def seed_files(user_data: str, instance_id: str, hostname: str, vendor_data: str) -> dict[str, str]:
    """Return the files of the seed by path, and the settings with which it works in a container."""
    seed = "/var/lib/cloud/seed/nocloud"
    return {
        f"{seed}/meta-data": f"instance-id: {instance_id}\nlocal-hostname: {hostname}\n",
        f"{seed}/user-data": user_data,
        f"{seed}/vendor-data": vendor_data,
        "/etc/cloud/cloud.cfg.d/90-lab.cfg": _SETTINGS,
        # cloud-init does not make a host key that exists.
        "/etc/ssh/ssh_host_ed25519_key": "",
    }
