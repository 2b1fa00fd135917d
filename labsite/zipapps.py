"""What the server hands out in one file each, that any CPython from 3.10 on runs: `agent.pyz`, the
agent, and `lab.pyz`, the people's command, with all that they need.

Nothing in them is compiled, so there is one for every machine (docs/adr/0036). They are made from
the packages that this server itself has, in the same bytes wherever they are the same.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata, util
from pathlib import Path

#: Distribution -> the package or module of it that both import, or one of these does.
PARTS = {
    "labsite": "agent",
    "certifi": "certifi",
    "charset-normalizer": "charset_normalizer",
    "idna": "idna",
    "pyyaml": "yaml",
    "requests": "requests",
    "urllib3": "urllib3",
}
SUFFIXES = {".py", ".pem"}
LEFT_OUT = {"tests", "__pycache__"}
BUILD_CHARACTERS = 8
_SHEBANG = b"#!/usr/bin/env python3\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold


@dataclass(frozen=True)
class Zipapp:
    """Made once a process: what it serves does not change beneath a line that names its hash.

    `main` is the module that becomes its `__main__.py`; `parts` are as PARTS has them.
    """

    name: str
    main: str
    parts: Mapping[str, str]

    @cached_property
    def content(self) -> bytes:
        said = f"Metadata-Version: 2.1\nName: labsite\nVersion: {self.version}\n"
        return _zipped(self._files() | {"labsite.dist-info/METADATA": said.encode()})

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def version(self) -> str:
        """What it says that it is: 0.1.0+3f2a91c4, by what is in it."""
        digest = hashlib.sha256()
        for name, content in sorted(self._files().items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        return f"{metadata.version('labsite')}+{digest.hexdigest()[:BUILD_CHARACTERS]}"

    def _files(self) -> dict[str, bytes]:
        files = {}
        for distribution, package in self.parts.items():
            files |= _part(distribution, package)
        return files | {"__main__.py": _main(self.main)}


AGENT = Zipapp("agent.pyz", "agent.bootstrap", PARTS | {"nvidia-ml-py": "pynvml"})
LAB = Zipapp("lab.pyz", "labcommand", PARTS)


@cache
def _part(distribution: str, package: str) -> dict[str, bytes]:
    """Read once, whichever is made of it, and whatever happens to its files later."""
    found = [*_sources(package), *_licences(distribution)]
    return {name: path.read_bytes() for name, path in found}


@cache
def _main(module: str) -> bytes:
    return _origin(module)[0].read_bytes()


def _sources(package: str) -> Iterator[tuple[str, Path]]:
    origin, is_package = _origin(package)
    if not is_package:
        yield origin.name, origin
        return
    for path in origin.parent.rglob("*"):
        inner = path.relative_to(origin.parent)
        if path.suffix in SUFFIXES and not LEFT_OUT & set(inner.parts):
            yield f"{package}/{inner.as_posix()}", path


def _origin(module: str) -> tuple[Path, bool]:
    """Its file, and whether it is a package."""
    spec = util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin), bool(spec.submodule_search_locations)


def _licences(distribution: str) -> Iterator[tuple[str, Path]]:
    """That of others' work goes with it."""
    for file in metadata.files(distribution) or []:
        path = Path(str(file.locate()))
        if "LICENSE" in path.name.upper() and path.is_file():
            yield f"licenses/{distribution}/{path.name}", path


def _zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO(_SHEBANG)
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            one = zipfile.ZipInfo(name, _EPOCH)
            one.compress_type, one.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(one, files[name])
    return out.getvalue()
