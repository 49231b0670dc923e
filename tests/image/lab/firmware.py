"""The kernel command line and the DMI strings of a machine, which a container would otherwise take from its host.

systemd-nspawn binds nothing below /proc and /sys, and a host without DMI has no directory to bind over; the machine
itself can do both, as the first thing of its boot.
"""

from __future__ import annotations

from collections.abc import Mapping

_PLACE = "/etc/parbake-lab"

UNIT = "parbake-lab-firmware.service"

_UNIT_TEXT = f"""\
[Unit]
Description=The firmware that the test gives this machine
DefaultDependencies=no
Before=sysinit.target cloud-init-local.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mount --bind {_PLACE}/cmdline /proc/cmdline
ExecStart=mount -t overlay -o ro,lowerdir={_PLACE}/class:/sys/class overlay /sys/class

[Install]
WantedBy=sysinit.target
"""


def firmware_files(cmdline: str, dmi: Mapping[str, str]) -> dict[str, str]:
    """Path and text of what shows `cmdline` and `dmi` (name in /sys/class/dmi/id to text) while UNIT is enabled."""
    return {
        f"/etc/systemd/system/{UNIT}": _UNIT_TEXT,
        f"{_PLACE}/cmdline": f"{cmdline}\n",
        f"{_PLACE}/class/dmi/id/uevent": "",
        **{f"{_PLACE}/class/dmi/id/{name}": f"{text}\n" for name, text in dmi.items()},
    }
