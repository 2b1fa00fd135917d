"""What `manage.py runlab` tells the settings before they are read."""

import os
import socket
from pathlib import Path

import pytest

from labsite.run import options


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Reads a command line in an environment without settings; gives what it was made into."""

    def tell(*argv: str, **before: str) -> dict[str, str]:
        environment = {"PATH": os.environ["PATH"], **before}
        monkeypatch.setattr(os, "environ", environment)
        options.into_environment(["--data-dir", str(tmp_path / "data"), *argv])
        return environment

    return tell


def test_the_host_goes_by_its_names_and_addresses(told) -> None:
    hosts = told()["LAB_ALLOWED_HOSTS"].split(",")

    assert {"localhost", "127.0.0.1", socket.gethostname()} <= set(hosts)
    assert "0.0.0.0" not in hosts
    assert "*" not in hosts


def test_the_public_url_is_one_of_its_names(told) -> None:
    environment = told("--public-url", "https://lab.example.edu:8443")

    assert "lab.example.edu" in environment["LAB_ALLOWED_HOSTS"].split(",")
    assert environment["LAB_PUBLIC_URL"] == "https://lab.example.edu:8443"
    assert environment["LAB_HTTPS"] == "true"


def test_names_that_were_said_in_the_environment_stay(told) -> None:
    hosts = told(LAB_ALLOWED_HOSTS="old.example.edu,older.example.edu")["LAB_ALLOWED_HOSTS"]

    assert hosts.split(",")[:2] == ["old.example.edu", "older.example.edu"]


def test_the_data_folder_is_made_for_its_owner_alone(told, tmp_path: Path) -> None:
    environment = told()

    assert environment["LAB_DATA_DIR"] == str(tmp_path / "data")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_a_mistake_is_left_to_the_command_which_explains_it(told, tmp_path: Path) -> None:
    assert "LAB_DATA_DIR" not in told("--port", "many")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("argv", "variable"),
    [(["--tls", "self"], "LAB_HTTPS"), (["--dev"], "LAB_DEBUG"), ([], "")],
)
def test_only_what_was_asked_for_is_set(told, argv: list[str], variable: str) -> None:
    environment = told(*argv)

    assert {"LAB_HTTPS", "LAB_DEBUG"} & set(environment) == ({variable} if variable else set())
