"""`lab devices`: who has a card, in a word or two."""

from typing import Any

import pytest

from agent.cli.devices import use_of

FREE: dict[str, Any] = {
    "claim": None, "quarantined_at": None, "fault": "", "quarantine_reason": "",
    "used_elsewhere": False, "foreign_users": [],
}  # fmt: skip
BORROWED = {"words": "kim, borrowed until 14:00"}
FAULTY = {"quarantined_at": "2026-11-30", "quarantine_reason": "the fan is loud"}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, "free"),
        ({"claim": BORROWED}, "kim, borrowed until 14:00"),
        (FAULTY, "the fan is loud"),
        ({**FAULTY, "claim": BORROWED}, "kim, borrowed until 14:00; the fan is loud"),
        ({"foreign_users": ["lee"]}, "outside the queue: lee"),
    ],
)
def test_a_card_says_who_has_it_and_what_is_wrong_with_it(facts: dict, words: str) -> None:
    assert use_of({**FREE, **facts}) == words
