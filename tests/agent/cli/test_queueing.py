"""`lab submit` and `lab rerun` on a line that is cut."""

import argparse
from collections.abc import Callable

import pytest

from agent.cli import queueing
from agent.cli.api import Api
from agent.cli.context import Lab
from agent.cli.errors import CliError, Exit
from tests.agent.cli.web import Answer, Request, problem, reply, serving

MADE = {"uid": "20261130_1a2b"}
CUT: Answer = (201, {"Content-Length": "100"}, b'{"uid": "2026')


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queueing, "WAITS_SECONDS", (0.0, 0.0, 0.0))


def queue(answerer: Callable[[Request], Answer]) -> tuple[object, list[Request]]:
    """What comes of it, an error too; and what was asked."""
    lab = Lab(argparse.Namespace(json=False, server=None))
    with serving(answerer) as (url, seen), Api(url, "labp_0123456789") as api:
        lab.__dict__["api"] = api
        try:
            return queueing.queue(lab, "/api/jobs/", {"command": ["x"]}), seen
        except CliError as exc:
            return exc, seen


def posts(seen: list[Request]) -> list[Request]:
    return [request for request in seen if request.method == "POST"]


def test_after_a_lost_answer_the_same_key_is_asked_again():
    answers = iter([CUT, reply({"submits_once": True}), reply(MADE)])

    made, seen = queue(lambda request: next(answers))

    first, second = posts(seen)
    assert made == MADE
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.body == second.body


def test_each_submit_has_a_key_of_its_own():
    _, one = queue(lambda request: reply(MADE))
    _, other = queue(lambda request: reply(MADE))

    assert one[0].headers["Idempotency-Key"] != other[0].headers["Idempotency-Key"]


def test_a_server_that_knows_no_keys_is_asked_once():
    answers = iter([CUT, reply({"username": "kim"})])

    said, seen = queue(lambda request: next(answers))

    assert "look with lab ls" in str(said)
    assert len(posts(seen)) == 1


def test_a_refusal_is_not_asked_again():
    said, seen = queue(lambda request: problem(400, "not_submitted", "No command."))

    assert str(said) == "No command."
    assert len(seen) == 1


def test_a_server_that_stays_away_is_given_up():
    said, seen = queue(lambda request: CUT)

    assert isinstance(said, CliError)
    assert said.exit_code == Exit.UNREACHABLE
    assert "look with lab ls" in str(said)
    assert len(seen) == 1 + len(queueing.WAITS_SECONDS)
