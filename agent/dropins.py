"""The drop-ins that make application units wait for their config (pure)."""

from __future__ import annotations

from agent.settings.tables import Settings

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
_ORDER = "After=parbake.service parbake-ship.service"
_REQUIRES = "Requires=parbake.service"


def drop_ins(settings: Settings) -> dict[str, str]:
    """The drop-in of every unit that a template names, path below the root -> text, in sorted order.

    Each unit is ordered after parbake.service, and after parbake-ship.service, so that at shutdown the shipper outlives
    it. A unit of a template with `required = true` requires parbake.service as well: it does not start before the first
    convergence of a boot, nor where that failed. `parbake-generator` takes the requirement back after it is met.
    Units in `EARLY` get none.
    """
    waits: dict[str, bool] = {}
    for template in settings.templates:
        for unit in template.units:
            if unit.name in EARLY:
                continue
            waits[unit.name] = waits.get(unit.name, False) or template.required
    return {f"{DIRECTORY}/{unit}.d/{FILE_NAME}": _text(waits[unit]) for unit in sorted(waits)}


def _text(required: bool) -> str:
    lines = [HEADER, "[Unit]", _ORDER, *([_REQUIRES] if required else [])]
    return "\n".join(lines) + "\n"
