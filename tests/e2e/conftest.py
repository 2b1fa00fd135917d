"""A data folder that is ready to serve, made once, and a server on a copy of it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import Lab


@pytest.fixture(scope="session")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A server that was started once on nothing, and stopped again."""
    lab = Lab(tmp_path_factory.mktemp("first") / "data").start(on_nothing=True)
    lab.interrupt()
    return lab


@pytest.fixture
def make_lab(first_start: Lab, tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Starts servers on copies of that data folder; none is left when the test ends."""
    made: list[Lab] = []

    def make(*options: str) -> Lab:
        data_dir = tmp_path / f"data{len(made)}"
        shutil.copytree(first_start.data_dir, data_dir)
        made.append(Lab(data_dir, *options))
        return made[-1].start()

    yield make
    for lab in made:
        if lab.process is not None and lab.process.poll() is None:
            lab.kill()
