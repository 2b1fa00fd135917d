"""Sending a snapshot: the server says which of its files it was not sent yet, and gets those."""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import requests

from agent.cli.errors import CliError, Exit
from agent.cli.progress import Progress
from agent.cli.tree import Taken
from agent.code import manifest

ROUNDS = 3  # what the server let go of in between is sent once more
GZIP_LEVEL = 1
RAW = {"Content-Type": "application/octet-stream"}
PACKED = {**RAW, "Content-Encoding": "gzip"}
#: Files that are packed already, and would only take time.
DENSE = (".png", ".jpg", ".jpeg", ".gz", ".zip", ".npz", ".whl", ".mp4", ".pt", ".pth", ".so")


class Server(Protocol):
    """What is asked of agent.cli.api.Api."""

    def request(
        self,
        method: str,
        path: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response: ...


def send(taken: Taken, api: Server, progress: Progress) -> str:
    """Have the server keep the snapshot. Return its SHA-256.

    Raises:
        CliError: it will not, or a file changed while it was sent.
    """
    document = taken.held.dump()
    if len(document) > manifest.MAX_DOCUMENT_BYTES:
        raise CliError("The names of the code's files are too long together: ignore some of them")
    packed = _packed(document)
    for _ in range(ROUNDS):
        missing = _missing(api.request("POST", "/api/code/", data=packed, headers=PACKED))
        if not missing:
            return manifest.sha256_of(document)
        _send_files(taken, missing, api, progress)
    raise CliError("The server does not keep the code that it was sent", Exit.UNREACHABLE)


def _missing(answer: requests.Response) -> list[str]:
    try:
        return list(answer.json()["missing"])
    except (ValueError, KeyError, TypeError):  # a proxy that would have somebody sign in
        words = "What answers is no lab server: is a proxy between it and here?"
        raise CliError(words, Exit.UNREACHABLE) from None


def _send_files(taken: Taken, missing: list[str], api: Server, progress: Progress) -> None:
    paths = {file.sha256: name for name, file in taken.held.files.items()}
    sizes = taken.held.sizes
    if not set(missing) <= sizes.keys():
        raise CliError("The server asks for files that are no part of the code: is it a lab's?")
    with progress.bytes("Sending code", sum(sizes[one] for one in missing)) as advance:
        for batch in _batches(missing, sizes):
            body = b"".join(_framed(taken.top / paths[one], one, sizes[one]) for one in batch)
            dense = all(paths[one].endswith(DENSE) for one in batch)
            data, headers = (body, RAW) if dense else (_packed(body), PACKED)
            api.request("POST", "/api/code/files", data=data, headers=headers)
            advance(sum(sizes[one] for one in batch))


def _batches(sha256s: list[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    length = 0
    for one in sha256s:
        full = length + sizes[one] > manifest.BATCH_BYTES or len(batch) >= manifest.MAX_BATCH_FILES
        if batch and full:
            yield batch
            batch, length = [], 0
        batch.append(one)
        length += sizes[one]
    if batch:
        yield batch


def _framed(path: Path, sha256: str, size: int) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise CliError(f"{path} cannot be read: {exc.strerror}") from exc
    if len(content) != size or manifest.sha256_of(content) != sha256:
        raise CliError(f"{path} changed while it was sent: submit once more")
    return manifest.head(sha256, size) + content


def _packed(data: bytes) -> bytes:
    packer = zlib.compressobj(GZIP_LEVEL, wbits=16 + zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()
