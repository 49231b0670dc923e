"""Prometheus's text exposition format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Sample = tuple[Mapping[str, str], float]
"""Labels and a value."""


def family(name: str, kind: str, doc: str, samples: Iterable[Sample]) -> str:
    """All samples of one metric, with its help and type. `name` goes without the prefix `parbake_`."""
    lines = [f"# HELP parbake_{name} {doc}", f"# TYPE parbake_{name} {kind}"]
    lines += [f"parbake_{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    """Never in short: a counter of millions must count on."""
    return str(int(value)) if value == int(value) else repr(float(value))
