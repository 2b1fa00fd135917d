"""Prometheus' text format, version 0.0.4: families of samples, each with its help and type.

As https://prometheus.io/docs/instrumenting/exposition_formats/ has it; a page of code, and no
package for it. Names and units are by https://prometheus.io/docs/practices/naming/.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Family:
    """One metric. Samples whose value is None are left out: nobody knows it."""

    name: str
    help: str
    kind: str = "gauge"
    _lines: list[str] = field(default_factory=list)

    def add(self, value: float | None, labels: Mapping[str, str] | None = None) -> None:
        if value is not None:
            self._lines.append(f"{self.name}{_labels(labels or {})} {_number(value)}")

    def lines(self) -> list[str]:
        """None of one that has no samples."""
        if not self._lines:
            return []
        told = self.help.replace("\\", r"\\").replace("\n", r"\n")
        head = [f"# HELP {self.name} {told}", f"# TYPE {self.name} {self.kind}"]
        return [*head, *self._lines]


def text_of(families: Iterable[Family]) -> str:
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _labels(labels: Mapping[str, str]) -> str:
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{told}}}" if told else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
