"""What one file holds, as far as a page shows it: a bounded piece from its beginning."""

import csv
import json
from dataclasses import dataclass, field
from typing import BinaryIO

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from labsite.pages import yamlcolour
from labsite.pages.pictures import type_of
from labsite.pages.terminal import html_of
from sync.checkpoints import contents as checkpoints
from sync.checkpoints.contents import Contents
from sync.checkpoints.errors import Unreadable

#: How much of a file is read, and how many rows and columns of a table are shown.
READ_BYTES = 128 * 1024
ROWS, COLUMNS, CELL = 200, 40, 200
YAML = (".yaml", ".yml")
TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Preview:
    """`kind` says which of the others is there: image, checkpoint, table, text or nothing."""

    kind: str
    text: SafeString | str = ""
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    checkpoint: Contents | None = None
    words: str = ""  # why there is nothing, or not all of it


def preview(name: str, file: BinaryIO, size: int) -> Preview:
    """Args:
    size: so much of the file may be read, in bytes.
    """
    if type_of(name):
        return Preview("image")
    if checkpoints.is_checkpoint(name):
        return _checkpoint(name, file, size)
    file.seek(0)
    data = file.read(min(READ_BYTES, size))
    if b"\x00" in data:
        return Preview("nothing", words=_("It is no text, so it is not shown here: download it."))
    words = "" if size <= READ_BYTES else _("Its beginning; download it to see the rest.")
    return _text(name.lower(), data, words)


def _checkpoint(name: str, file: BinaryIO, size: int) -> Preview:
    try:
        return Preview("checkpoint", checkpoint=checkpoints.read(name, file, size))
    except Unreadable as unreadable:
        return Preview("nothing", words=str(unreadable))


def _text(name: str, data: bytes, words: str) -> Preview:
    suffix = name[name.rfind(".") :]
    if suffix in TABLES and (table := _table(data, TABLES[suffix], bool(words))):
        header, *rows = table
        more = len(rows) > ROWS or bool(words)
        return Preview("table", header=header, rows=rows[:ROWS], words=words or _cut(more))
    text = data.decode("utf-8", "replace")
    if suffix == ".json" and not words:
        text = _indented(text)
    if suffix in YAML or suffix == ".json":
        return Preview("text", text=yamlcolour.lines(text), words=words)
    return Preview("text", text=html_of(data.splitlines(keepends=True), 1), words=words)


def _cut(is_cut: bool) -> str:
    return _("Its first %(n)d rows; download it to see the rest.") % {"n": ROWS} if is_cut else ""


def _table(data: bytes, delimiter: str, is_cut: bool) -> list[list[str]]:
    """At most one row more than are shown, the header first; empty if it is no table."""
    lines = data.decode("utf-8-sig", "replace").splitlines()
    if is_cut:
        lines = lines[:-1]  # half a row
    rows: list[list[str]] = []
    try:
        for row in csv.reader(lines, delimiter=delimiter):
            rows.append([cell[:CELL] for cell in row[:COLUMNS]])
            if len(rows) > ROWS + 1:
                break
    except csv.Error:
        return []
    return rows


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
