"""Giving snapshots out: to the agents that run them, to people as an archive and as a list."""

import tarfile
from collections.abc import Iterator, Mapping

from django.utils.translation import gettext as _

from agent.code import manifest
from agent.code.manifest import Manifest
from agent.wire import Malformed
from experiments.models import Snapshot
from labsite.errors import NotFound
from sync.code import blobs


def gone() -> NotFound:
    """What people and agents alike are told."""
    return NotFound(
        _("The server does not have this code any more: submit it again from its folder.")
    )


def held_by(snapshot: Snapshot) -> Manifest:
    """As manifest_of(). Raises: NotFound: it is not there any more."""
    found = manifest_of(snapshot)
    if found is None:
        raise gone()
    return found


def manifest_of(snapshot: Snapshot) -> Manifest | None:
    """What it holds; None: its manifest is not on the disk any more, or is damaged."""
    return manifest_by(snapshot.sha256)


def manifest_by(sha256: str) -> Manifest | None:
    """As manifest_of()."""
    try:
        document = blobs.read(sha256)
        return manifest.load(document) if _is(document, sha256) else None
    except (OSError, Malformed):
        return None


def _is(document: bytes, sha256: str) -> bool:
    return manifest.sha256_of(document) == sha256


class Frames:
    """Files one after the other, for a response that asks no database any more."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """`sizes`: SHA-256 -> bytes, of each."""
        self._sizes = sizes

    def __iter__(self) -> Iterator[bytes]:
        """Raises OSError: one is gone. The answer then has no end, which its reader notices."""
        together = bytearray()
        for sha256, size in self._sizes.items():
            together += manifest.head(sha256, size)
            for block in blobs.blocks(sha256):
                together += block
                if len(together) >= manifest.BLOCK_BYTES:
                    yield bytes(together)
                    together.clear()
        yield bytes(together)


class Tar:
    """A snapshot as a tar archive, made while it is sent."""

    def __init__(self, held: Manifest, folder: str, made_at: float) -> None:
        """
        Args:
            folder: within the archive, in which all of it lies.
            made_at: of the files, in seconds since 1970.
        """
        self._held, self._folder, self._made_at = held, folder, made_at

    def __iter__(self) -> Iterator[bytes]:
        for path, file in sorted(self._held.files.items()):
            info = self._info(path)
            info.size, info.mode = file.size, 0o755 if file.executable else 0o644
            yield info.tobuf(tarfile.PAX_FORMAT)
            yield from blobs.blocks(file.sha256)
            yield b"\0" * (-file.size % tarfile.BLOCKSIZE)
        for path, target in sorted(self._held.links.items()):
            info = self._info(path)
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
            yield info.tobuf(tarfile.PAX_FORMAT)
        yield b"\0" * (2 * tarfile.BLOCKSIZE)

    def _info(self, path: str) -> tarfile.TarInfo:
        info = tarfile.TarInfo(f"{self._folder}/{path}")
        info.mtime = int(self._made_at)
        return info
