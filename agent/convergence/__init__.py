"""One convergence: from the facts to units that run on the new config, or back to the old one.

`converge` runs the steps in order. `journal`, `executor` and `recovery` carry out a plan and finish one that was cut off.
"""

__all__ = [
    "boot_dropins",
    "context",
    "converge",
    "drift",
    "hold",
    "journal",
    "phases",
    "plan",
    "quarantine",
    "recovery",
    "rendering",
    "rollback",
]
