"""What a job requires of a host: looked for before the start, and again until it is there."""

from pathlib import Path
from typing import Any

import pytest

from agent import lacks, users, wire
from agent.lacks import Lacking, Lacks
from agent.store import Store
from tests.agent.conftest import AgentProcess
from tests.agent.jobs import started
from tests.agent.server import FakeServer, make_order


def order(**requires: list[str]) -> wire.AttemptOrder:
    return wire.decode(wire.AttemptOrder, make_order(requires=requires))


def check(wanted: wire.AttemptOrder, path: str = "/usr/bin:/bin") -> None:
    lacks.check_paths(wanted, users.own())
    lacks.check_commands(wanted, path)


def missing(path: str = "/usr/bin:/bin", **requires: Any) -> Lacking:
    with pytest.raises(Lacking) as caught:
        check(order(**requires), path)
    return caught.value


def test_a_host_that_has_all_of_it_is_asked_nothing_more(tmp_path: Path) -> None:
    wanted = order(paths=[str(tmp_path)], commands=["sh"])

    check(wanted)
    assert missing(paths=[f"{tmp_path}/not"])


def test_what_is_missing_is_named_in_one_sentence(tmp_path: Path) -> None:
    path = missing(paths=[f"{tmp_path}/imagenet", "/"])
    command = missing(commands=["sh", "ffmpeg9"])

    assert f"{tmp_path}/imagenet cannot be read here" in str(path)
    assert "ffmpeg9 is not on the PATH" in str(command)
    assert [one.name for one in path.lacks] == [f"{tmp_path}/imagenet"]
    assert [one.name for one in command.lacks] == ["ffmpeg9"]


def test_it_is_told_until_it_is_there_also_by_the_next_agent(tmp_path: Path) -> None:
    data = tmp_path / "imagenet"
    Lacks(store := Store(tmp_path / "journal.sqlite3")).note(missing(paths=[str(data)]))

    known = Lacks(store)
    known.look_again()
    before = known.latest()
    data.mkdir()
    known.look_again()

    assert [one.name for one in before] == [str(data)]
    assert known.latest() == []
    assert Lacks(store).latest() == []


def test_a_command_is_looked_for_where_the_job_looked(tmp_path: Path) -> None:
    known = Lacks(Store(tmp_path / "journal.sqlite3"))
    known.note(missing(path=str(tmp_path / "bin"), commands=["ffmpeg9"]))
    known.look_again()
    assert known.latest()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg9").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "ffmpeg9").chmod(0o755)
    known.look_again()
    assert known.latest() == []


def test_a_heartbeat_has_room_for_the_newest(tmp_path: Path) -> None:
    known = Lacks(Store(tmp_path / "journal.sqlite3"))
    for number in range(100):
        known.note(missing(paths=[f"/nowhere/{'x' * 400}{number}"]))

    told = known.latest()

    assert 10 < len(told) < 30
    assert told[0].name.endswith("99")


def test_a_start_that_fails_for_it_says_so_and_nothing_ran(
    server: FakeServer, agent: AgentProcess
) -> None:
    agent.start()
    refused = server.order(
        requires={"paths": ["/nowhere/imagenet"]},
        command=["true"],
        working_directory="/nowhere/imagenet/code",  # not there either, which is no news
    )
    fine = server.order(requires={"paths": ["/"], "commands": ["sh"]}, command=["true"])

    event = server.wait_event(refused["id"], "start_failed")
    started(server, fine)

    assert [one["name"] for one in event["lacks"]] == ["/nowhere/imagenet"]
    server.wait(lambda: any(beat.get("lacks") for beat in server.asked("/api/devices/heartbeat")))
