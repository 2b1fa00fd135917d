"""Whom the audit asks about, and when it has asked enough."""

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import wire
from agent.errors import AgentError, AnswerTooLong, Rejected, ServerUnreachable, Unauthorized
from agent.files import audit as auditing
from agent.files import missing as finding
from agent.files.audit import Audit
from agent.files.filejournal import FileJournal, Sent
from agent.files.missing import Missing
from agent.files.regular import Mark
from agent.journal import Attempt, Journal
from agent.store import Store
from tests.agent.server import make_order

SENT = Sent(generation=1, acked_bytes=4, sha256="a" * 64, complete=True)
WHOLE = {"attempt": 1, "generation": 1, "size": 4, "complete": True}


class Server:
    """Answers by the experiment uid; what it has no answer for it does not know."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []

    def close(self) -> None: ...

    def sync_status(self, uid: str) -> dict[str, Any]:
        self.asked.append(uid)
        answer = self.answers.get(uid, Rejected(404, "not_found", {}))
        if isinstance(answer, AgentError):
            raise answer
        return {"data": {"attempt": 1, "files": {"run.csv": answer} if answer else {}}}


class Host:
    """Seven attempts that are done, each with a file that lies there."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(Store(folder / "journal.sqlite3"))
        self.files = FileJournal(Store(folder / "files.sqlite3"))
        self.server = Server()
        self.offered: list[str] = []
        (folder / "run.csv").write_bytes(b"rows")
        self.uids = [self.done(folder) for _ in range(7)]
        self.audit = Audit(lambda: self.server, self.journal, self.files, self.offer)  # type: ignore[arg-type,return-value]

    def done(self, folder: Path) -> str:
        order = wire.decode(wire.AttemptOrder, make_order())
        self.journal.accept(order)
        self.journal.own(str(folder), order)
        self.journal.finish(order.id)
        self.files.put(order.id, "run.csv", SENT)
        return order.experiment_uid

    def offer(self, attempt: Attempt, names: set[str]) -> None:
        assert names == {"run.csv"}
        self.offered.append(attempt.order.experiment_uid)

    def ask(self) -> None:
        self.audit.ask(self.server, threading.Event())  # type: ignore[arg-type]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def none_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "IN_TURN", 0)


@pytest.mark.usefixtures("none_in_turn")
def test_three_in_a_row_that_are_whole_are_enough_and_the_newest_are_first(host: Host) -> None:
    host.server.answers = dict.fromkeys(host.uids, WHOLE)

    host.ask()

    assert host.server.asked == host.uids[:3:-1]
    assert host.offered == []


def test_of_those_behind_them_each_has_its_turn(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person may have touched any of them."""
    monkeypatch.setattr(auditing, "IN_TURN", 3)
    host.server.answers = dict.fromkeys(host.uids, WHOLE) | {host.uids[0]: None}

    host.ask()
    host.server.asked, first = [], host.server.asked
    host.ask()

    newest, rest = host.uids[:3:-1], host.uids[3::-1]
    assert first == [*newest, *rest[:3]]
    assert host.server.asked == [*newest, rest[3], *rest[:2]]
    assert host.offered == [host.uids[0]]


@pytest.mark.usefixtures("none_in_turn")
def test_what_somebody_wishes_is_asked_for_however_old_it_is(host: Host) -> None:
    host.server.answers = dict.fromkeys(host.uids, WHOLE) | {host.uids[0]: None}
    [oldest] = [one for one in host.journal.done() if one.order.experiment_uid == host.uids[0]]

    host.audit.wish([oldest.id])
    host.ask()

    assert host.offered == [host.uids[0]]


@pytest.mark.usefixtures("none_in_turn")
def test_a_wish_outlasts_a_server_that_goes_away_while_it_is_asked(host: Host) -> None:
    whole = dict.fromkeys(host.uids, WHOLE) | {host.uids[0]: None}
    [oldest] = [one for one in host.journal.done() if one.order.experiment_uid == host.uids[0]]
    host.audit.wish([oldest.id])
    host.server.answers = whole | {host.uids[4]: ServerUnreachable("away")}
    with pytest.raises(ServerUnreachable):
        host.ask()

    host.server.answers = whole
    host.ask()

    assert host.offered == [host.uids[0]]


def test_what_is_sent_while_the_server_is_asked_is_not_lacking(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is of a version that the journal had not noted when it was looked at."""
    newest = host.journal.done()[0]
    newer = replace(SENT, generation=2, sha256="b" * 64)
    told = {**WHOLE, "generation": 2, "sha256": "b" * 64}
    host.server.answers = dict.fromkeys(host.uids, WHOLE) | {newest.order.experiment_uid: told}
    answer = host.server.sync_status

    def meanwhile(uid: str) -> dict[str, Any]:
        if uid == newest.order.experiment_uid:
            host.files.put(newest.id, "run.csv", newer)
        return answer(uid)

    monkeypatch.setattr(host.server, "sync_status", meanwhile)
    host.ask()

    assert host.offered == []


@pytest.mark.usefixtures("none_in_turn")
def test_what_came_after_the_backup_is_offered_and_asking_goes_on_behind_it(host: Host) -> None:
    lost = host.uids[4]  # the two after it the backup does not know at all
    host.server.answers = dict.fromkeys(host.uids[:4], WHOLE) | {lost: None}

    host.ask()

    assert host.offered == [lost]
    assert host.server.asked == host.uids[:0:-1]


def test_what_is_under_way_is_asked_for_each_time(host: Host) -> None:
    host.server.answers = dict.fromkeys(host.uids, WHOLE) | {host.uids[0]: None}
    [oldest] = [one for one in host.journal.done() if one.order.experiment_uid == host.uids[0]]
    host.journal.reopen(oldest.id)

    host.ask()

    assert host.offered == [host.uids[0]]


def test_an_output_is_offered_while_it_is_the_file_that_was_acknowledged(
    host: Host, tmp_path: Path
) -> None:
    """It lies in the working directory, where another job may have written it anew."""
    facts, names = {"working_directory": str(tmp_path / "code")}, {"mine.pt", "anothers.pt"}
    order = wire.decode(wire.AttemptOrder, make_order(outputs=["*.pt"]))
    (tmp_path / "code").mkdir()
    host.journal.accept(order)
    host.journal.starting(order.id, "boot", facts, {})
    host.journal.own(str(tmp_path / "runs"), order)
    for name in names:
        path = tmp_path / "code" / name
        path.write_bytes(b"rows")
        sent = replace(SENT, mark=str(Mark.of(path.stat())))
        host.files.put(order.id, f"{order.run_name}/{name}", sent)
    os.utime(tmp_path / "code" / "anothers.pt", (1, 1))
    host.server.answers = {order.experiment_uid: None}
    offered: list[set[str]] = []
    host.audit._offer_again = lambda attempt, names: offered.append(names)

    host.ask()

    assert offered == [{f"{order.run_name}/mine.pt"}]


def test_a_run_whose_files_are_too_many_to_be_told_holds_up_none_of_the_others(host: Host) -> None:
    host.server.answers = dict.fromkeys(host.uids, WHOLE)
    host.server.answers |= {host.uids[6]: AnswerTooLong("…"), host.uids[5]: None}

    host.ask()

    assert host.offered == [host.uids[5]]


@pytest.mark.parametrize(
    "trouble", [ServerUnreachable("away"), Unauthorized(401, "unauthorized", {})]
)
def test_a_server_that_does_not_answer_is_asked_another_time(
    host: Host, trouble: AgentError
) -> None:
    host.server.answers = dict.fromkeys(host.uids, trouble)

    with pytest.raises(type(trouble)):
        host.ask()

    assert host.offered == []


# --- for `lab-agent push` ---


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "ASK_SECONDS", 0.0)


def found(host: Host, folder: Path) -> Missing:
    return Missing(folder, lambda: host.server, [])  # type: ignore[arg-type,return-value]


def names(missing: Missing) -> list[str]:
    return [run.experiment_uid for run in missing.left()]


@pytest.mark.usefixtures("at_once")
def test_a_server_that_goes_away_while_it_is_asked_takes_back_nothing(
    host: Host, tmp_path: Path
) -> None:
    """The newest are asked for first."""
    newest, oldest = host.uids[6], host.uids[0]
    whole = dict.fromkeys(host.uids, WHOLE)
    host.server.answers = whole | {newest: None, host.uids[4]: ServerUnreachable("away")}
    missing = found(host, tmp_path)

    assert [one.order.experiment_uid for one, _names in missing.news()] == [newest]
    assert (names(missing), missing.trouble) == ([newest], "away")
    assert missing.news() == []

    host.server.answers = whole | {newest: None, oldest: None}
    assert names(missing) == [newest, oldest]
    assert [one.order.experiment_uid for one, _names in missing.news()] == [oldest]
    assert missing.trouble is None


@pytest.mark.usefixtures("at_once")
def test_a_hiccup_while_it_is_asked_again_does_not_make_it_whole(
    host: Host, tmp_path: Path
) -> None:
    whole = dict.fromkeys(host.uids, WHOLE)
    host.server.answers = whole | {host.uids[2]: None}
    missing = found(host, tmp_path)

    host.server.answers[host.uids[2]] = ServerUnreachable("away")
    assert (names(missing), missing.trouble) == ([host.uids[2]], "away")
    host.server.answers = whole
    assert (names(missing), missing.trouble) == ([], None)


def test_a_folder_in_the_place_of_a_file_is_not_that_file(host: Host, tmp_path: Path) -> None:
    host.server.answers = dict.fromkeys(host.uids)  # it has none of them
    (tmp_path / "run.csv").unlink()
    (tmp_path / "run.csv").mkdir()

    host.ask()

    assert host.offered == []
