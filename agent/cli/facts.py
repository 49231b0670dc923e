"""`parbake facts`: shows the facts, each with its provider."""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace

from agent.cli.output import aligned, print_json, print_line
from agent.discovery.engine import discover, missing_facts_summary
from agent.paths import Paths
from agent.settings.models import Settings

log = logging.getLogger("parbake")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="show each attempt of a provider and its time")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    facts = discover(settings, paths)
    if arguments.json:
        document = {
            "facts": {name: facts.values[name] for name in sorted(facts.values)},
            "providers": dict(facts.providers),
            "seconds": facts.seconds,
        }
        if arguments.verbose:
            document["attempts"] = [
                {"provider": attempt.provider, "outcome": attempt.outcome, "seconds": attempt.seconds}
                for attempt in facts.attempts
            ]
        print_json(document)
        return 0
    rows = []
    for name in sorted(facts.values):
        value = facts.values[name]
        shown = value if isinstance(value, str) else ", ".join(f"{k}={v}" for k, v in sorted(value.items()))
        rows.append((name, shown.replace("\n", "\\n"), facts.providers[name]))
    print_line(aligned(rows) or "no facts are known")
    if arguments.verbose:
        attempts = [(a.provider, f"{a.seconds * 1000:.1f} ms", a.outcome) for a in facts.attempts]
        print_line(f"\n{aligned(attempts) or 'no provider was asked: [discovery] providers is empty'}")
        print_line(f"\n{facts.seconds * 1000:.1f} ms in total, of {settings.discovery.timeout * 1000:.0f} ms at most")
    elif missing := missing_facts_summary(facts):
        log.warning("%s; see `parbake facts -v`", missing)
    return 0
