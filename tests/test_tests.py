"""Each test asserts something, in its own lines: what it is about is read there."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ASSERTS = re.compile(r"assert|raises|expect\(|run_state_machine|\bcheck_")


def sources_of(path: Path) -> list[tuple[str, str]]:
    """Name and source of each."""
    source = path.read_text()
    return [
        (node.name, ast.get_source_segment(source, node) or "")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]


@pytest.mark.parametrize("path", sorted(HERE.rglob("test_*.py")), ids=lambda path: path.name)
def test_each_test_asserts_something(path):
    assert [name for name, source in sources_of(path) if not ASSERTS.search(source)] == []
