"""Where a job's code comes from, as `source` says it: a snapshot that the server keeps, or a
commit that the GPU server fetches. Without one a job runs in what lies on the GPU server.

    {"kind": "snapshot", "sha256": "9f86…", "folder": "exp"}
    {"kind": "git", "url": "https://git.example.org/lab/digits", "commit": "3fd1525"}

`folder` is where in it the command runs; a job's `working_directory` is relative to that.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.utils.translation import gettext as _

from agent.code.manifest import is_path, is_sha256
from experiments.values import Wrong
from experiments.yamltree import clip

KINDS = ("snapshot", "git")
_NEEDS = {"snapshot": ("sha256",), "git": ("url", "commit")}
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
#: user@host:path, as git writes an address of ssh.
_SCP = re.compile(r"[\w.-]+@[\w.-]+:(?!:)[^\s-][^\s]*")
_SCHEMES = ("https", "http", "ssh", "git", "file")


def checked(said: Mapping[str, Any]) -> dict[str, Any]:
    """What one said of a source, complete, and without what its kind does not know.

    Raises:
        Wrong: something is missing.
    """
    kind = said.get("kind")
    if kind is None:
        raise Wrong(_("write where the code comes from, as in {kind: git, url: …, commit: …}"))
    for name in _NEEDS[kind]:
        if name not in said:
            raise Wrong(_("%(kind)s needs %(name)s") % {"kind": kind, "name": name})
    known = ("kind", *_NEEDS[kind], "folder")
    return {name: said[name] for name in known if said.get(name)}


def sha256(text: str) -> str:
    if not is_sha256(text):
        raise Wrong(_("write the 64 hexadecimal digits that name the snapshot"))
    return text


def commit(text: str) -> str:
    """Not a branch: that is another commit tomorrow."""
    if not _COMMIT.fullmatch(text):
        words = _("“%(text)s” is no commit: write its hash, 7 to 64 hexadecimal digits")
        raise Wrong(words % {"text": clip(text)})
    return text


def url(text: str) -> str:
    if _SCP.fullmatch(text) or text.startswith("/"):
        return text
    parts = _split(text)
    if parts is None or parts.scheme not in _SCHEMES or "::" in text.partition("://")[0]:
        words = _("“%(text)s” is no address of a repository, such as https://host/lab/code.git")
        raise Wrong(words % {"text": clip(text)})
    if parts.password is not None or (parts.scheme == "https" and parts.username):
        raise Wrong(
            _("leave name and password out of it: the GPU server uses git credentials of its own")
        )
    return text


def _split(text: str) -> Any:
    try:
        return urlsplit(text)
    except ValueError:
        return None


def folder(text: str) -> str:
    """A path within the code; empty: its top."""
    path = text.removeprefix("./").rstrip("/")
    if path in ("", "."):
        return ""
    if path.startswith("~") or not is_path(path):
        words = _(
            "“%(text)s” must lie within the code that is sent: write a path relative to it, or"
            " run what lies on the GPU server (lab submit --code host)"
        )
        raise Wrong(words % {"text": clip(text)})
    return path


def links(said: Mapping[str, str]) -> dict[str, str]:
    """What is laid into the code: {path: where it leads}."""
    made = {}
    for path, target in said.items():
        if not is_path(path):
            words = _("“%(text)s” must be a path within the code, such as data")
            raise Wrong(words % {"text": clip(path)})
        made[path] = target
    return made
