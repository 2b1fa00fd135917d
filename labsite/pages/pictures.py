"""The images of a run in rows that differ by a number only: the same thing at another step."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from labsite.pages.runfiles import File

#: Content types of what is shown in a page. Anything else is only downloaded.
TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "avif": "image/avif",
    "svg": "image/svg+xml",
}
#: So many rows are shown, and of each so many steps, evenly.
ROWS, STEPS = 24, 200
_LAST_NUMBER = re.compile(r"(\d+)(?=[^/\d]*$)")


@dataclass
class Row:
    """Images under one name but for a number."""

    name: str  # samples/step_*.png
    images: list[tuple[int, str]] = field(default_factory=list)  # step and the file's name

    @property
    def newest(self) -> tuple[int, str]:
        return self.images[-1]


@dataclass(frozen=True)
class Pictures:
    rows: list[Row]
    steps: list[int]  # of all rows together, increasing
    others: int  # rows that are not shown


def type_of(name: str) -> str | None:
    """The content type of an image; None for anything else."""
    return TYPES.get(name.rpartition(".")[2].lower())


def pictures_of(run_name: str, files: Iterable[File]) -> Pictures | None:
    """None if it has no image."""
    rows: dict[str, Row] = {}
    for file in files:
        if type_of(file.name) and file.size:
            name = file.name.removeprefix(f"{run_name}/")
            found = _LAST_NUMBER.search(name)
            key = f"{name[: found.start()]}*{name[found.end() :]}" if found else name
            step = int(found[0][:15]) if found else 0
            rows.setdefault(key, Row(key)).images.append((step, file.name))
    if not rows:
        return None
    shown = list(rows.values())[:ROWS]
    for row in shown:
        row.images = _evenly(sorted(row.images))
    steps = sorted({step for row in shown for step, _name in row.images})
    return Pictures(shown, steps, len(rows) - len(shown))


def _evenly(images: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The first, the last, and some in between."""
    if len(images) <= STEPS:
        return images
    last = len(images) - 1
    return [images[round(at * last / (STEPS - 1))] for at in range(STEPS)]
