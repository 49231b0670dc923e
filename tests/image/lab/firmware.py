"""The kernel command line and the DMI strings of a machine. A container would show those of its host.

systemd-nspawn binds nothing below /proc and /sys, and a host without DMI has no directory to bind over. The machine
itself can do both at the start of its boot.
"""

from __future__ import annotations

from collections.abc import Mapping

_DIRECTORY = "/etc/parbake-lab"

UNIT = "parbake-lab-firmware.service"

_UNIT_TEXT = f"""\
[Unit]
Description=The firmware that the test gives this machine
DefaultDependencies=no
Before=sysinit.target cloud-init-local.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mount --bind {_DIRECTORY}/cmdline /proc/cmdline
ExecStart=mount -t overlay -o ro,lowerdir={_DIRECTORY}/class:/sys/class overlay /sys/class

[Install]
WantedBy=sysinit.target
"""


def firmware_files(cmdline: str, dmi: Mapping[str, str]) -> dict[str, str]:
    """Return files by path that show `cmdline` and `dmi` (name in /sys/class/dmi/id to text) while UNIT is enabled."""
    return {
        f"/etc/systemd/system/{UNIT}": _UNIT_TEXT,
        f"{_DIRECTORY}/cmdline": f"{cmdline}\n",
        f"{_DIRECTORY}/class/dmi/id/uevent": "",
        **{f"{_DIRECTORY}/class/dmi/id/{name}": f"{text}\n" for name, text in dmi.items()},
    }
