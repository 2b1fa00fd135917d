"""The lab's stock of configs: YAML files beneath `<data>/config/`, to be chosen by name."""

from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext as _

from agent.wire import MAX_CONFIG_BYTES
from labsite.errors import BadRequest, NotFound


def names() -> list[str]:
    """All of them, as paths relative to the folder, sorted."""
    root = settings.LAB_CONFIG_DIR
    found = [path for pattern in ("*.yaml", "*.yml") for path in root.rglob(pattern)]
    return sorted(str(path.relative_to(root)) for path in found if path.is_file())


def read(name: str) -> bytes:
    """One of them, byte for byte. A leading `config/`, as people write it, is left out.

    Raises:
        NotFound: there is none of that name beneath the folder.
        BadRequest: it is larger than a config may be.
    """
    root = settings.LAB_CONFIG_DIR.resolve()
    path = (root / name.removeprefix("config/")).resolve()
    if not path.is_relative_to(root) or path.suffix not in (".yaml", ".yml") or not path.is_file():
        words = _(
            "There is no config “%(name)s” on the server. Put it beneath %(folder)s, "
            "or paste it into the editor."
        )
        raise NotFound(words % {"name": name, "folder": _shown(root)}, field="config_path")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise BadRequest(
            _("“%(name)s” is larger than a config may be.") % {"name": name},
            limit=MAX_CONFIG_BYTES,
        )
    return path.read_bytes()


def _shown(root: Path) -> str:
    return f"{root.parent.name}/{root.name}/"
