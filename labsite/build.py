"""Which build of the pages this is: a page that is of another one loads itself anew."""

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

from django.conf import settings

#: What a page consists of, beneath the repository's root.
_FOLDERS = ("static/css", "static/js", "templates", "locale")


@cache
def build_id() -> str:
    """Of the version and of the bytes that pages are made of; read once a process."""
    digest = hashlib.sha256(metadata.version("labsite").encode())
    for folder in _FOLDERS:
        for path in sorted(Path(settings.BASE_DIR, folder).rglob("*")):
            if path.is_file():
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]
