"""The drop-ins that make application units wait for their config (pure)."""

from __future__ import annotations

from agent.settings.models import Settings

DIRECTORY = "/etc/systemd/system"
FILE_NAME = "50-parbake.conf"
"""parbake-generator and the package's removal look for the drop-ins by this name, systemd/ and packaging/ too."""

EARLY = frozenset(
    f"{name}.service"
    for name in (
        "NetworkManager", "dbus", "dbus-broker", "firewalld", "networking", "nftables", "ufw", "netfilter-persistent",
        "systemd-journald", "systemd-modules-load", "systemd-networkd", "systemd-networkd-wait-online",
        "systemd-resolved", "systemd-sysctl", "systemd-timesyncd", "systemd-udevd",
        "cloud-init", "cloud-init-local", "cloud-init-main", "cloud-init-network",
    )
)  # fmt: skip
"""Units that the network, and so parbake itself, is ordered after. Waiting for parbake would be a cycle, which systemd
breaks by dropping a job: they start on the image's config, and parbake acts on them once it has converged."""

HEADER = "# Made by `parbake bake`; do not edit, it is replaced by the next bake."
_TEXT = f"""{HEADER}
[Unit]
After=parbake.service parbake-ship.service
Requires=parbake.service
"""


def drop_ins(settings: Settings) -> dict[str, str]:
    """The drop-in of every unit that a required template names, path below the root -> text, in sorted order.

    The unit does not start before the first convergence of a boot, nor where that failed; `parbake-generator` takes the
    requirement back once it is met. After parbake-ship.service, so that at shutdown the shipper outlives it.

    Units of `required = false` templates alone get none: even without `Requires=`, being ordered after a parbake that
    waits for a source would keep them down, and an ssh.service may be what the instance is repaired through. Units in
    `EARLY` get none either.
    """
    waiting = {
        unit.name
        for template in settings.templates
        if template.required
        for unit in template.units
        if not unit.command and unit.name not in EARLY
    }
    return {f"{DIRECTORY}/{unit}.d/{FILE_NAME}": _TEXT for unit in sorted(waiting)}
