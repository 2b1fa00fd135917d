"""The files of deploy/ are those that the operations page shows and install-service writes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from agent import config
from agent.service import installing as agents
from agent.service import unitfiles
from agent.service.managers import Choice
from labsite.run import service as servers

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()
UNITS = {
    name: (ROOT / f"deploy/{name}.service").read_text() for name in ("lab-server", "lab-agent")
}


@pytest.mark.parametrize("name", UNITS)
def test_units_are_shown_as_they_are(name: str) -> None:
    shown = re.search(rf"```ini\n# /etc/systemd/system/{name}\.service\n(.*?)```", PAGE, re.S)

    assert shown is not None
    assert UNITS[name] == shown[1]


def test_the_agents_unit_is_what_is_installed() -> None:
    chosen = config.parse(["--server", "http://lab-server:8000", "--host-id", "gpu1"])
    choice = Choice(True, "trainer", "lab-agent", "systemd", True, False)
    described = replace(
        agents.describe(chosen, choice, {}),
        command=("/home/trainer/lab/.venv/bin/lab-agent", *chosen.arguments),
        directory=Path("/home/trainer/code"),
        variables={},
    )

    assert unitfiles.systemd(described, of_system=True) == UNITS["lab-agent"]


def test_the_servers_unit_is_what_is_installed() -> None:
    choice = Choice(True, "lab", "lab-server", "systemd", True, False)
    described = servers.describe(["--data-dir", "/srv/lab"], choice)
    _, _, *words = described.command
    described = replace(
        described,
        command=("/opt/lab/.venv/bin/python", "/opt/lab/manage.py", *words),
        directory=Path("/opt/lab"),
    )

    assert unitfiles.systemd(described, of_system=True) == UNITS["lab-server"]


def test_the_proxy_is_shown_as_it_is() -> None:
    shown = re.search(r"```nginx\n(.*?)```", PAGE, re.S)

    assert shown is not None
    assert (ROOT / "deploy" / "nginx.conf").read_text().endswith(shown[1])
