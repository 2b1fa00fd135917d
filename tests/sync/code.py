"""Snapshots for tests: made of a few files, and sent as the `lab` command does."""

import gzip
import hashlib
from typing import Any

from agent.code import manifest
from agent.code.manifest import File, Manifest
from tests import make

RAW = "application/octet-stream"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest_of(files: dict[str, bytes], **facts: Any) -> Manifest:
    return Manifest({path: File(sha256(c), len(c)) for path, c in files.items()}, **facts)


def framed(*contents: bytes) -> bytes:
    return b"".join(manifest.head(sha256(one), len(one)) + one for one in contents)


class Sender:
    """A person with a token."""

    def __init__(self, client: Any, user: Any) -> None:
        self._client = client
        self.user = user
        self._headers = {"authorization": f"Token {make.token(user)}"}

    def post(self, path: str, body: bytes, *, packed: bool = False) -> Any:
        headers = {**self._headers, **({"content-encoding": "gzip"} if packed else {})}
        data = gzip.compress(body) if packed else body
        return self._client.post(path, data, RAW, headers=headers)

    def announce(self, document: bytes, **how: Any) -> Any:
        return self.post("/api/code/", document, **how)

    def send(self, *contents: bytes, **how: Any) -> Any:
        return self.post("/api/code/files", framed(*contents), **how)

    def keep(self, files: dict[str, bytes], **facts: Any) -> str:
        """Have the server keep these files as a snapshot. Return its name."""
        document = manifest_of(files, **facts).dump()
        missing = self.announce(document).json()["missing"]
        if missing:
            self.send(*{sha256(one): one for one in files.values()}.values())
            assert self.announce(document).status_code == 201
        return sha256(document)

    def submit(self, sha256: str, **more: Any) -> Any:
        wish = {"project": "digits", "command": ["true"], **more}
        wish["source"] = {"kind": "snapshot", "sha256": sha256}
        return self._client.post("/api/jobs/", wish, "application/json", headers=self._headers)

    def get(self, path: str) -> Any:
        return self._client.get(path, headers=self._headers)
