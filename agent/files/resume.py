"""Laying the files of an earlier attempt into a run's folder, so that its script goes on."""

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from agent import wire
from agent.errors import ServerUnreachable, StartFailed
from agent.files.regular import open_regular
from agent.transport import Transport
from agent.wire import AttemptOrder, ResumeFile

Rights = Callable[[], AbstractContextManager[None]]


def lay_in(
    transport: Transport, order: AttemptOrder, run_dir: Path, rights: Rights = nullcontext
) -> None:
    """Fetch each file that `order.resume` names. One that lies there whole is not fetched again.

    A file without a hash is taken as the server has it now: it may have grown since the order.
    `rights`: whose files they are to be.

    Raises:
        ServerUnreachable: cut off, or the server's file changed meanwhile; ask again.
        Rejected: the server has no such file.
        StartFailed: it may not be written here.
    """
    assert order.resume is not None
    for file in order.resume.files:
        if not wire.is_file_of(order.run_name, file.lay_as):
            raise StartFailed(f"{file.lay_as!r} may not name a file: resume from another point")
        target = run_dir / file.lay_as
        try:
            if file.sha256 is None or _sha256(target, rights) != file.sha256:
                _fetch(transport, file, target, rights)
        except OSError as exc:
            raise StartFailed(f"{target} cannot be written: {exc.strerror}") from exc


def _fetch(transport: Transport, file: ResumeFile, target: Path, rights: Rights) -> None:
    part = target.with_name(f".{target.name}.part")
    with rights():
        part.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with (
        open(descriptor, "wb") as out,
        transport.download(file.experiment_uid, file.file_name) as blocks,
    ):
        for block in blocks:
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    if file.sha256 is not None and _sha256(part, rights) != file.sha256:
        raise ServerUnreachable(f"{file.file_name} arrived otherwise than announced")
    with rights():
        part.rename(target)


def _sha256(path: Path, rights: Rights) -> str | None:
    """None: no file that could be the one."""
    digest = hashlib.sha256()
    try:
        with rights():
            file = open_regular(path)
        with file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()
