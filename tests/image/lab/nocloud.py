"""What cloud-init's NoCloud source reads on a machine that has neither a cloud nor udev."""

from __future__ import annotations

# The network is there before the boot, and there is no udev to rename or settle anything. The images have no locales to
# generate and no OpenSSH to make host keys for, and their mirror is not to be replaced by a cloud's.
_SETTINGS = """\
datasource_list: [ NoCloud, None ]
network: {config: disabled}
locale: C.UTF-8
apt: {preserve_sources_list: true}
ssh_deletekeys: false
ssh_genkeytypes: [ed25519]
"""


def seed_files(user_data: str, instance_id: str, hostname: str, vendor_data: str) -> dict[str, str]:
    """Path and text of every file of the seed, and of the settings that let it work in a container."""
    seed = "/var/lib/cloud/seed/nocloud"
    return {
        f"{seed}/meta-data": f"instance-id: {instance_id}\nlocal-hostname: {hostname}\n",
        f"{seed}/user-data": user_data,
        f"{seed}/vendor-data": vendor_data,
        "/etc/cloud/cloud.cfg.d/90-lab.cfg": _SETTINGS,
        # A host key that is there is not made.
        "/etc/ssh/ssh_host_ed25519_key": "",
    }
