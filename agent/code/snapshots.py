"""Laying the snapshot that an attempt runs in into its folder, bit for bit."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agent.code import manifest
from agent.code.cache import CodeCache
from agent.code.folders import Rights
from agent.code.manifest import Damaged, Manifest
from agent.codec import Malformed
from agent.errors import ServerUnreachable, StartFailed
from agent.transport import Transport
from agent.wire import AttemptOrder

ROUNDS = 3  # what was removed from the cache, or damaged there, is fetched again


def restore(
    transport: Transport, order: AttemptOrder, cache: CodeCache, folder: Path, rights: Rights
) -> None:
    """Lay all files of `order.source` into an empty folder, with `rights`.

    Raises:
        ServerUnreachable: cut off; what has come is kept, so ask again.
        Rejected: the server does not have it.
        StartFailed: it is no snapshot that may be laid down, or cannot be written.
    """
    held = _manifest(transport, order)
    left = set(held.files)
    try:
        with rights():
            _make_folders(held, folder)
        for _ in range(ROUNDS):
            _fetch(transport, order, cache, {held.files[path].sha256 for path in left})
            left = {path for path in left if not _lay(held, path, cache, folder, rights)}
            if not left:
                break
        with rights():
            _lay_symlinks(held, folder)
    except OSError as exc:
        raise StartFailed(f"The code cannot be laid into {folder}: {exc.strerror}") from exc
    if left:
        raise ServerUnreachable(f"{len(left)} files of the code did not arrive whole")
    cache.trim()


def _manifest(transport: Transport, order: AttemptOrder) -> Manifest:
    assert order.source is not None
    document = transport.code(order.id)
    if manifest.sha256_of(document) != order.source.sha256:
        raise ServerUnreachable("the snapshot's manifest arrived otherwise than announced")
    try:
        return manifest.load(document)
    except Malformed as exc:
        raise StartFailed(
            f"The snapshot of the job's code is none that may be laid down here ({exc}): submit "
            "it again"
        ) from exc


def _make_folders(held: Manifest, folder: Path) -> None:
    above = {one for path in (*held.files, *held.links) for one in manifest.folders_above(path)}
    for path in sorted(above):
        (folder / path).mkdir()


def _fetch(transport: Transport, order: AttemptOrder, cache: CodeCache, wanted: set[str]) -> None:
    """What of it the host does not have. What comes before a cut is kept."""
    lacking = sorted(sha256 for sha256 in wanted if not cache.has(sha256))
    for some in _in_batches(lacking):
        with transport.code_files(order.id, some) as blocks:
            try:
                for frame in manifest.frames(manifest.Joined(blocks).read):
                    cache.add(frame)
            except Damaged as exc:
                raise ServerUnreachable(f"the code's files: {exc}") from exc


def _in_batches(items: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(items), manifest.MAX_BATCH_FILES):
        yield items[start : start + manifest.MAX_BATCH_FILES]


def _lay(held: Manifest, path: str, cache: CodeCache, folder: Path, rights: Rights) -> bool:
    """False: the cache does not have it any more. Read as the agent, written as the job's user."""
    file = held.files[path]
    mode = 0o755 if file.executable else 0o644

    def open_target() -> BinaryIO:
        with rights():
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            descriptor = os.open(folder / path, flags, mode)
            os.fchmod(descriptor, mode)  # whatever the agent's umask is
            return open(descriptor, "wb")  # with a buffer: a disk almost full takes half a block

    return cache.copy(file.sha256, open_target)


def _lay_symlinks(held: Manifest, folder: Path) -> None:
    """Last of all, so that nothing was laid through one."""
    for path, target in held.links.items():
        os.symlink(target, folder / path)
