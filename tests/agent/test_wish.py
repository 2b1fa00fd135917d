"""A wish, and another one in the same moment."""

import os
from pathlib import Path

import pytest

from agent.wish import FILE, Wish


def test_a_wish_is_heard_once(tmp_path: Path) -> None:
    wish = Wish(tmp_path)
    wish.make(["a1", "a2"])

    assert wish.heard() == ["a1", "a2"]
    assert wish.heard() is None
    wish.make()
    assert wish.heard() == []
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_are_made_at_once_none_is_dropped(tmp_path: Path) -> None:
    for attempt_id in ("a1", "a2"):
        Wish(tmp_path).make([attempt_id])

    assert Wish(tmp_path).heard() == ["a1", "a2"]


def test_one_that_is_made_while_another_is_heard_is_heard_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish, read = Wish(tmp_path), Path.read_text
    wish.make(["a1"])

    def meanwhile(path: Path, *args: str, **kwargs: str) -> str:
        content = read(path, *args, **kwargs)
        monkeypatch.undo()
        wish.make(["a2"])
        return content

    monkeypatch.setattr(Path, "read_text", meanwhile)

    assert (wish.heard(), wish.heard()) == (["a1"], ["a2"])


def test_where_there_are_no_links_a_wish_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    Wish(tmp_path).make(["a1"])

    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert Wish(tmp_path).heard() == ["a1"]
