"""The text format of Prometheus, version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Sample = tuple[Mapping[str, str], float]
"""The labels of a sample, and its value."""


def family(name: str, kind: str, doc: str, samples: Iterable[Sample]) -> str:
    """Return the lines of one metric: `doc` as its help, its type `kind`, its samples. `name` has no prefix `parbake_`."""
    lines = [f"# HELP parbake_{name} {doc}", f"# TYPE parbake_{name} {kind}"]
    lines += [f"parbake_{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    """Return all digits of a number. A rounded counter of millions would not increase."""
    return str(int(value)) if value == int(value) else repr(float(value))
