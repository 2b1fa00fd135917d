"""`agent.pyz`: the agent and all that it needs, in one file that any CPython from 3.10 on runs.

Nothing in it is compiled, so there is one for every machine (docs/adr/0036). It is made from the
packages that this server itself has, in the same bytes wherever they are the same.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path

NAME = "agent.pyz"
#: Distribution -> the package or module of it that an agent imports, or one of these does.
CONTENT = {
    "labsite": "agent",
    "certifi": "certifi",
    "charset-normalizer": "charset_normalizer",
    "idna": "idna",
    "nvidia-ml-py": "pynvml",
    "pyyaml": "yaml",
    "requests": "requests",
    "urllib3": "urllib3",
}
SUFFIXES = {".py", ".pem"}
LEFT_OUT = {"tests", "__pycache__"}
BOOTSTRAP = "agent/bootstrap.py"
BUILD_CHARACTERS = 8
_SHEBANG = b"#!/usr/bin/env python3\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold


@dataclass(frozen=True)
class AgentZip:
    content: bytes
    version: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@cache
def agent_zip() -> AgentZip:
    """Made once a process: what it serves does not change beneath a script that names its hash."""
    said = f"Metadata-Version: 2.1\nName: labsite\nVersion: {version()}\n"
    return AgentZip(_zipped(_files() | {"labsite.dist-info/METADATA": said.encode()}), version())


@cache
def version() -> str:
    """What agents from it say that they are: 0.1.0+3f2a91c4, by what is in it."""
    digest = hashlib.sha256()
    for name, content in sorted(_files().items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return f"{metadata.version('labsite')}+{digest.hexdigest()[:BUILD_CHARACTERS]}"


@cache
def _files() -> dict[str, bytes]:
    files = {name: path.read_bytes() for name, path in _sources()}
    return files | {"__main__.py": files[BOOTSTRAP], **dict(_licences())}


def _sources() -> Iterator[tuple[str, Path]]:
    for package in CONTENT.values():
        spec = util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        if not spec.submodule_search_locations:
            yield Path(spec.origin).name, Path(spec.origin)
            continue
        folder = Path(spec.origin).parent
        for path in folder.rglob("*"):
            inner = path.relative_to(folder)
            if path.suffix in SUFFIXES and not LEFT_OUT & set(inner.parts):
                yield f"{package}/{inner.as_posix()}", path


def _licences() -> Iterator[tuple[str, bytes]]:
    """Those of others' work, which goes with it."""
    for name in CONTENT:
        for file in metadata.files(name) or []:
            path = Path(str(file.locate()))
            if "LICENSE" in path.name.upper() and path.is_file():
                yield f"licenses/{name}/{path.name}", path.read_bytes()


def _zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO(_SHEBANG)
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            one = zipfile.ZipInfo(name, _EPOCH)
            one.compress_type, one.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(one, files[name])
    return out.getvalue()
