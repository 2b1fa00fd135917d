"""An answer of curves as a reader of charts sees it."""

from dataclasses import dataclass
from typing import Any

from sync.curves.lines import CSV

Points = list[tuple[float, float | None]]


@dataclass
class Seen:
    answer: dict[str, Any]

    @property
    def id(self) -> str:
        return self.answer["sources"][0]["id"]

    @property
    def start(self) -> int:
        return self.answer["sources"][0]["start"]

    @property
    def have(self) -> str:
        return ",".join(f"{one['id']}.{one['rows']}" for one in self.answer["sources"])

    @property
    def notes(self) -> dict[str, str]:
        return {one["name"]: one["note"] for one in self.answer["sources"] if one["note"]}

    @property
    def series(self) -> dict[str, list[float | None]]:
        """All sources' series by name; each name is there once."""
        pairs = [
            (series["name"], series["values"])
            for source in self.answer["sources"]
            for series in source["series"]
        ]
        assert len(pairs) == len(dict(pairs)), "a name is shown twice"
        return dict(pairs)

    def by(self, kind: str) -> dict[str, Points]:
        """Each series as points over its source's axis of this kind, from left to right."""
        return {
            series["name"]: sorted(_points(source, series, kind), key=lambda point: point[0])
            for source in self.answer["sources"]
            for series in source["series"]
        }


def _points(source: dict[str, Any], series: dict[str, Any], kind: str) -> Points:
    axis = next(axis for axis in source["axes"] if axis["kind"] == kind)
    places = dict(zip(_rows(axis), axis["values"], strict=True))
    return [
        (places[row], value)
        for row, value in zip(_rows(series), series["values"], strict=True)
        if row in places
    ]


def _rows(packed: dict[str, Any]) -> list[int]:
    at = packed["at"]
    return at if isinstance(at, list) else list(range(at, at + len(packed["values"])))


def slowly(reader: CSV, body: bytes) -> tuple[int, Any]:
    """What the reader's way for lines with quotes makes of these."""
    count, columns = reader._slow(body)
    return count, ((name, *cell) for name, cell in zip(["a", "b"], columns, strict=True))
