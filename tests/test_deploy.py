"""The files of deploy/ are those that the operations page shows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("name", ["lab-server", "lab-agent"])
def test_units_are_shown_as_they_are(name: str) -> None:
    shown = re.search(rf"```ini\n# /etc/systemd/system/{name}\.service\n(.*?)```", PAGE, re.S)

    assert shown is not None
    assert (ROOT / "deploy" / f"{name}.service").read_text() == shown[1]


def test_the_proxy_is_shown_as_it_is() -> None:
    shown = re.search(r"```nginx\n(.*?)```", PAGE, re.S)

    assert shown is not None
    assert (ROOT / "deploy" / "nginx.conf").read_text().endswith(shown[1])
