"""A real image, a real boot: Debian root file systems, systemd in containers, and networks of their own.

Linux and root only; needs mmdebstrap and systemd-nspawn (`missing_requirements` says what is not there). Nothing here
depends on pytest.

    with Network() as network, Machine(base_image("bookworm"), scratch, network=network) as machine:
        machine.seed(user_data="#cloud-config\\n{}\\n")
        machine.boot()
        machine.run(["systemctl", "status"])
"""

from tests.image.lab.binaries import consul_binary
from tests.image.lab.commands import LabError
from tests.image.lab.images import BASE_PACKAGES, Image, base_image, prepared_image
from tests.image.lab.machine import Machine
from tests.image.lab.network import Network
from tests.image.lab.requirements import missing_requirements

__all__ = [
    "BASE_PACKAGES",
    "Image",
    "LabError",
    "Machine",
    "Network",
    "base_image",
    "consul_binary",
    "missing_requirements",
    "prepared_image",
]
