"""A snapshot of code: its manifest, and how its files' bytes travel. Standard library only.

The `lab` command makes one, the server keeps it and an agent restores it, so each of them checks
it by the rules that stand here. It is one JSON document, in one form only: its SHA-256 is the
snapshot's name, and whoever has the name can tell whether what came is it.

    {"branch": "main", "commit": "3fd1525…", "diff": "…", "dirty": true,
     "files": {"train.py": ["9f86d0…", 1204, 0]},       SHA-256, bytes, 1: may be executed
     "links": {"data": "/data/imagenet"},
     "remote": "https://git.example.org/lab/digits", "version": 1}

Bytes travel as frames, one a file: 32 bytes of its SHA-256, 8 of its length, then itself.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from agent.codec import Malformed, loads

VERSION = 1
MAX_BYTES = 64 * 1024 * 1024  # of all files together
MAX_FILES = 20_000  # and links
MAX_DOCUMENT_BYTES = 8 * 1024 * 1024
MAX_DIFF_CHARACTERS = 256 * 1024
MAX_WORD_CHARACTERS = 255  # a commit's, a branch's
MAX_LINE_CHARACTERS = 1024  # a remote's, a folder's
MAX_PATH_BYTES = 1024
MAX_PART_BYTES = 255  # a file system's
MAX_TARGET_BYTES = 4095  # a link's

#: Of the files that are asked for or sent at once.
MAX_BATCH_FILES = 1000
BATCH_BYTES = 8 * 1024 * 1024  # a larger file goes alone

HEAD = struct.Struct(">32sQ")
BLOCK_BYTES = 256 * 1024
_HEX = set("0123456789abcdef")


class Damaged(Exception):
    """What came is not what was said: to be asked for again."""


@dataclass(frozen=True)
class File:
    sha256: str
    size: int  # in bytes
    executable: bool = False


@dataclass(frozen=True)
class Manifest:
    """What a snapshot holds, and where it was taken; all paths are relative, with slashes."""

    files: dict[str, File]
    links: dict[str, str] = field(default_factory=dict)  # symbolic ones: path -> target
    commit: str = ""  # empty: not of a git repository, or one without a commit
    branch: str = ""
    dirty: bool = False  # something in it is in no commit
    remote: str = ""  # without credentials
    diff: str = ""  # to the commit, for people; cut at MAX_DIFF_CHARACTERS

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files.values())

    @property
    def sizes(self) -> dict[str, int]:
        """SHA-256 -> bytes, of each content once."""
        return {file.sha256: file.size for file in self.files.values()}

    def dump(self) -> bytes:
        """The document, in its one form."""
        content = {
            **{name: getattr(self, name) for name in _WORDS},
            "dirty": self.dirty,
            "files": {
                path: [file.sha256, file.size, int(file.executable)]
                for path, file in self.files.items()
            },
            "links": self.links,
            "version": VERSION,
        }
        return _written(content)


def load(document: bytes) -> Manifest:
    """
    Raises:
        Malformed: it is no snapshot's, holds too much, or would reach out of its folder.
    """
    if len(document) > MAX_DOCUMENT_BYTES:
        raise Malformed("", f"more than {MAX_DOCUMENT_BYTES} bytes of names: leave files out")
    content = loads(document)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise Malformed("version", f"must be {VERSION}: install the same release everywhere")
    made = Manifest(
        files={path: _file(path, value) for path, value in _mapping(content, "files").items()},
        links={path: _target(path, value) for path, value in _mapping(content, "links").items()},
        dirty=content.get("dirty") is True,
        **{name: _word(content, name, limit) for name, limit in _WORDS.items()},
    )
    _check_paths([*made.files, *made.links])
    _check_sizes(made)
    if made.dump() != document:
        raise Malformed("", "the manifest is not in its one form: sorted, without spaces")
    return made


def sha256_of(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()


def is_path(path: str) -> bool:
    """Whether it names something beneath a folder, on any file system of Linux."""
    try:
        parts = path.encode().split(b"/")
    except UnicodeEncodeError:  # half a character
        return False
    fits = len(path.encode()) <= MAX_PATH_BYTES and "\0" not in path
    return fits and all(_is_part(part) for part in parts)


def _is_part(part: bytes) -> bool:
    return 0 < len(part) <= MAX_PART_BYTES and part not in (b".", b"..")


def folders_above(path: str) -> Iterator[str]:
    """`a/b/c` -> `a/b`, `a`."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


# --- reading one -------------------------------------------------------------------------------

_WORDS = {
    "commit": MAX_WORD_CHARACTERS,
    "branch": MAX_WORD_CHARACTERS,
    "remote": MAX_LINE_CHARACTERS,
    "diff": MAX_DIFF_CHARACTERS,
}


def _written(content: Any) -> bytes:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def _mapping(content: dict[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name)
    if not isinstance(found, dict):
        raise Malformed(name, "must hold paths")
    if len(found) > MAX_FILES:
        raise Malformed(name, f"{len(found)} are more than {MAX_FILES}: leave some out")
    return found


def _word(content: dict[str, Any], name: str, limit: int) -> str:
    word = content.get(name)
    if not isinstance(word, str) or len(word) > limit:
        raise Malformed(name, f"must be a text of at most {limit} characters")
    return word


def _file(path: str, value: Any) -> File:
    if isinstance(value, list) and [type(part) for part in value] == [str, int, int]:
        sha256, size, executable = value
        if is_sha256(sha256) and 0 <= size <= MAX_BYTES and executable in (0, 1):
            return File(sha256, size, executable == 1)
    raise Malformed(f"files.{path[:80]}", "must be a SHA-256, a size in bytes, and 0 or 1")


def is_sha256(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and _HEX.issuperset(text)


def _target(path: str, value: Any) -> str:
    """Where a link leads is its own business: nothing is ever laid beneath one."""
    if isinstance(value, str) and 0 < len(value.encode()) <= MAX_TARGET_BYTES:
        return value
    raise Malformed(f"links.{path[:80]}", "must be where the link leads")


def _check_paths(paths: list[str]) -> None:
    if len(paths) > MAX_FILES:
        raise Malformed("files", f"{len(paths)} are more than {MAX_FILES}: leave some out")
    known = set(paths)
    if len(known) < len(paths):
        raise Malformed("links", "a path is a file and a link")
    for path in paths:
        if not is_path(path):
            raise Malformed("files", f"{path[:80]!r} names nothing beneath a folder")
        for folder in folders_above(path):
            if folder in known:
                raise Malformed("files", f"{path[:80]!r} lies beneath what is no folder")


def _check_sizes(manifest: Manifest) -> None:
    if manifest.size_bytes > MAX_BYTES:
        raise Malformed("files", f"they have more than {MAX_BYTES} bytes: leave some out")
    sizes = manifest.sizes
    if any(sizes[file.sha256] != file.size for file in manifest.files.values()):
        raise Malformed("files", "one content has two sizes")


# --- frames ------------------------------------------------------------------------------------


def head(sha256: str, size: int) -> bytes:
    """What goes before a file's bytes."""
    return HEAD.pack(bytes.fromhex(sha256), size)


@dataclass
class Frame:
    """A file on its way. Its blocks are to be read, to their end, before the next frame."""

    sha256: str
    size: int
    _read: Callable[[int], bytes]

    def blocks(self) -> Iterator[bytes]:
        """
        Raises:
            Damaged: there is less of it, or it is something else.
        """
        digest, left = hashlib.sha256(), self.size
        while left:
            block = self._read(min(BLOCK_BYTES, left))
            if not block:
                raise Damaged("it was cut short")
            left -= len(block)
            digest.update(block)
            yield block
        if digest.hexdigest() != self.sha256:
            raise Damaged("a file arrived otherwise than announced")


def frames(read: Callable[[int], bytes]) -> Iterator[Frame]:
    """Each file of a stream.

    Args:
        read: gives at most so many bytes, and none at the end.

    Raises:
        Damaged: it does not end with a whole file, or one is larger than a snapshot may be.
    """
    while start := read(HEAD.size):
        while len(start) < HEAD.size:
            more = read(HEAD.size - len(start))
            if not more:
                raise Damaged("it was cut short")
            start += more
        digest, size = HEAD.unpack(start)
        if size > MAX_BYTES:
            raise Damaged(f"a file of {size} bytes is larger than a snapshot may be")
        yield Frame(digest.hex(), size, read)


class Joined:
    """Blocks as they come, to be read in any pieces."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._rest = b""

    def read(self, count: int) -> bytes:
        """At least one byte, unless it is the end."""
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._rest = block
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken


def blocks_of(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block
