"""The promise, with real processes and real faults. These tests take minutes and mostly wait, so
they are run side by side: `make promise`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stack import Stack

HERE = Path(__file__).parent
#: Begun first, or they would run alone in the end.
LONGEST = {HERE / f"test_{name}.py" for name in ("requeue", "resume", "kill_matrix", "storms")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("promise")
    items.sort(key=lambda item: item.path not in LONGEST)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path) as made:
        yield made
