"""A growing file of a run with secrets: no value ever arrives, and both sides are one."""

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import users, wire
from agent.errors import Rejected
from tests.agent.accounts import needs_root
from tests.agent.filehost import Direct, FileHost
from tests.agent.test_growing import NAME, Bench, Clock, clock  # noqa: F401

SOMEBODY = 54321  # a user id
VALUE, OTHER = "hf_Zx81QmVsecret", "hf_Zx81QmVother/1"


class Telling(Direct):
    """Knows what the attempt was given, unless it refuses to say."""

    refuses = False
    asked = 0

    def secrets(self, attempt_id: str) -> dict[str, str]:
        self.asked += 1
        if self.refuses:
            raise Rejected(404, "not_found", {"detail": "not kept any more"})
        return {"HF_TOKEN": VALUE, "OTHER": OTHER}


class MaskedBench(Bench):
    def __init__(self, folder: Path, clock: Clock, name: str = NAME) -> None:  # noqa: F811
        self.telling = Telling(FileHost())
        super().__init__(folder, clock, name)
        self.host, self.transport = self.telling.host, self.telling

    def restart(self) -> None:
        super().restart()
        self.file.run.secret_names = ("HF_TOKEN", "OTHER")

    @property
    def all_stored(self) -> bytes:
        """Also what was laid aside."""
        return b"".join(file.content for file in self.host.results.values())


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> MaskedBench:  # noqa: F811
    return MaskedBench(tmp_path, clock)


def test_stars_arrive_and_stand_in_the_file_itself(bench: MaskedBench) -> None:
    bench.write(f"with {VALUE}\n".encode())
    bench.sync()
    bench.append(f"and {OTHER}.\n".encode())
    bench.end()

    wanted = f"with {'*' * len(VALUE)}\nand {'*' * len(OTHER)}.\n".encode()
    assert bench.stored == bench.path.read_bytes() == wanted
    assert bench.telling.asked == 1


@pytest.mark.parametrize("name", ["run_001/train.txt", "run_001/job.out", "run_001/job.err"])
def test_other_text_is_masked_as_well(tmp_path: Path, clock: Clock, name: str) -> None:  # noqa: F811
    bench = MaskedBench(tmp_path, clock, name)
    bench.write(f"with {VALUE}\n".encode())
    bench.end()

    assert bench.stored == bench.path.read_bytes() == f"with {'*' * len(VALUE)}\n".encode()


def test_no_star_breaks_an_event_file(tmp_path: Path, clock: Clock) -> None:  # noqa: F811
    """Its records have checksums. Nor does it wait for values that nobody tells."""
    bench = MaskedBench(tmp_path, clock, "run_001/events.out.tfevents.1.gpu-01.2.0")
    bench.telling.refuses = True
    content = b"\x12\x00crc\x0a" + VALUE.encode() + b"\xffcrc" + VALUE[:9].encode()
    bench.write(content)
    bench.sync()

    assert bench.stored == bench.path.read_bytes() == content


def test_half_a_value_waits_for_its_other_half(bench: MaskedBench) -> None:
    bench.write(b"epoch 1\n" + VALUE[:9].encode())
    bench.sync()
    held = bench.stored
    bench.append(VALUE[9:].encode() + b"\n")
    bench.sync()

    assert held == b"epoch 1\n"
    assert bench.stored == b"epoch 1\n" + b"*" * len(VALUE) + b"\n"


def test_what_only_looked_like_a_value_arrives_at_the_end(bench: MaskedBench) -> None:
    bench.write(b"epoch 1 hf_Zx81")
    bench.sync()
    bench.end()

    assert bench.stored == bench.path.read_bytes() == b"epoch 1 hf_Zx81"


def test_while_the_values_are_not_told_nothing_is_sent(bench: MaskedBench) -> None:
    bench.telling.refuses = True
    bench.write(f"with {VALUE}\n".encode())
    for _ in range(3):
        bench.step()

    assert bench.all_stored == b""
    assert "not kept any more" in (bench.file.error or "")
    bench.telling.refuses = False
    bench.end()
    assert bench.stored == bench.path.read_bytes()


def test_a_script_that_writes_its_file_anew_is_masked_anew(bench: MaskedBench) -> None:
    rows = [f"{n},{VALUE}\n" for n in range(3)]
    for count in range(1, 4):
        bench.write("".join(rows[:count]).encode())
        bench.sync()
    bench.end()

    assert bench.stored == bench.path.read_bytes()
    assert VALUE.encode() not in bench.all_stored


@pytest.fixture
def of_a_user(clock: Clock) -> Iterator[MaskedBench]:  # noqa: F811
    """Whose folder and rights are not root's, also where these tests are run by root."""
    with tempfile.TemporaryDirectory() as name:
        made = MaskedBench(Path(name), clock)
        if os.geteuid() == 0:
            os.chown(name, SOMEBODY, SOMEBODY)
        made.file.run.rights_in = lambda _folder: users.acting_as(SOMEBODY, SOMEBODY, ())
        yield made


@pytest.mark.parametrize("mode", [0o444, 0o400])
def test_a_file_that_its_script_closed_is_masked_and_stays_closed(
    of_a_user: MaskedBench, mode: int
) -> None:
    bench = of_a_user
    bench.write(f"with {VALUE}\n".encode())
    bench.path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(bench.path, SOMEBODY, SOMEBODY)

    bench.end()

    assert bench.stored == bench.path.read_bytes() == f"with {'*' * len(VALUE)}\n".encode()
    assert bench.path.stat().st_mode & 0o777 == mode
    assert bench.file.settled


@needs_root
def test_another_users_file_with_a_secret_is_left_out_and_lets_the_run_settle(
    of_a_user: MaskedBench,
) -> None:
    """As a container writes it, that runs as root."""
    bench = of_a_user
    bench.write(b"epoch 1\n")
    bench.path.chmod(0o644)
    bench.sync()
    bench.append(f"with {VALUE}\n".encode())
    bench.step()
    left_out = bench.file.left_out
    bench.file.run.exited = True

    assert left_out == bench.file.left_out == wire.WhyLeftOut.UNMASKED
    assert not bench.file.is_due(bench.clock() + 60)
    assert bench.file.settled
    assert "another user's" in bench.file.state
    assert bench.all_stored == b"epoch 1\n"

    os.chown(bench.path, SOMEBODY, SOMEBODY)
    bench.append(b"more\n")
    bench.end()
    assert bench.stored == bench.path.read_bytes()
    assert VALUE.encode() not in bench.all_stored
    assert bench.file.left_out is None


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_no_value_arrives_and_both_sides_are_one(
    bench: MaskedBench, seed: int
) -> None:
    dice = random.Random(seed)
    text = "".join(dice.choice([VALUE, OTHER, VALUE[:5], "\n", "loss 0.1 "]) for _ in range(40))
    at = 0
    bench.write(b"")
    while at < len(text):
        size = dice.randint(1, 12)
        bench.append(text[at : at + size].encode())
        at += size
        if dice.random() < 0.3:
            bench.transport.fates.append(dice.choice(["lost_request", "lost_answer"]))
        if dice.random() < 0.2:
            bench.restart()
        bench.step()
        assert VALUE.encode() not in bench.all_stored
        assert OTHER.encode() not in bench.all_stored
    bench.transport.fates.clear()
    bench.end()

    assert bench.stored == bench.path.read_bytes()
    assert len(bench.stored) == len(text)
    assert NAME in bench.host.results
