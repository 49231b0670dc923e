"""The look at the targets after one was touched: what drifted is logged and reported, and repaired if the settings say so."""

from __future__ import annotations

import logging

from agent.convergence import drift
from agent.convergence.context import Memory, Runtime
from agent.status.report import TemplateState
from agent.system import journal_log

log = logging.getLogger("parbake")


class DriftCheck:
    """Compares the targets with the applied generation, and remembers what was logged."""

    def __init__(self) -> None:
        self._logged: dict[str, str] = {}

    def look(self, runtime: Runtime, memory: Memory) -> bool:
        """Update the rows of the report. Returns whether a target is to be restored.

        Raises BusyError if another parbake is converging: it is the one that writes the targets.
        """
        with runtime.state.lock(wait=False):
            last = runtime.state.generations.last()
        modes = {template.name: template.drift for template in runtime.settings.templates}
        drifted: dict[str, str] = {}
        repair = False
        for name, recorded in (last.targets if last else {}).items():
            difference = drift.difference(runtime.paths, recorded) if name in modes else None
            if difference is None:
                continue
            drifted[name] = difference
            restored = modes[name] == "repair" or difference == drift.GONE
            repair = repair or restored
            if self._logged.get(name) != difference:
                extra = journal_log.event(journal_log.DRIFT, memory.report.generation, PARBAKE_TARGET=recorded["target"])
                action = "it is restored" if restored else "it is left so"
                log.warning("target %s drifted: %s; %s", recorded["target"], difference, action, extra=extra)
        self._logged = drifted
        for row in memory.report.templates:
            if row["state"] in (TemplateState.CURRENT, TemplateState.DRIFTED):
                row["state"] = TemplateState.DRIFTED if row["name"] in drifted else TemplateState.CURRENT
        return repair
