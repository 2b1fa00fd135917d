"""Files that were refused are offered again once the server knows their attempt."""

from types import SimpleNamespace

from agent import wire
from agent.attempts import Attempts


class Files:
    def __init__(self) -> None:
        self.nudges = 0

    def nudge(self) -> None:
        self.nudges += 1


def reply(*ended: str) -> wire.PollReply:
    return wire.PollReply(
        server_id="s",
        revision="r",
        ended=list(ended),
        draining=False,
        poll_seconds=1.0,
        attempts=[],
    )


def test_a_server_that_knows_an_attempt_again_is_offered_its_files_again():
    files = Files()
    attempts = Attempts(SimpleNamespace(files=files))  # type: ignore[arg-type]

    nudges = []
    for answer in (reply("a"), reply("a"), reply(), reply(), reply("a"), reply("a", "b")):
        attempts.recognise(answer)
        nudges.append(files.nudges)

    assert nudges == [1, 1, 1, 1, 2, 3]
