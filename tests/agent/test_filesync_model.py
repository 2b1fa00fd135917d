"""The agent's half of the delta protocol against every order of faults that Hypothesis finds.

Whatever a script does to its CSV, and whatever is lost, late, repeated or forgotten: the host's
copy is never anything but a beginning of a version that the script wrote, nothing acknowledged
is lost, and in the end both are equal.
"""

import os
import shutil
import tempfile
import threading
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.files.filejournal import FileJournal
from agent.files.growing import Growing
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.store import Store
from tests.agent.filehost import UID, Direct, FileHost

NAME = "run_001.csv"
ROWS = st.binary(min_size=1, max_size=12)


class Sending(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="filesync-"))
        self.path = self.folder / NAME
        self.host = FileHost()
        self.transport = Direct(self.host)
        self.versions: list[bytes] = [b""]  # all that the file ever was, newest last
        self.number = 1
        self.by_hand = False
        self.ticks = 0
        self._write(b"")
        self.lose_journal()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    # --- the script ---

    def _write(self, content: bytes) -> None:
        self.versions.append(content)
        self.path.write_bytes(content)
        self.ticks += 1
        os.utime(self.path, ns=(self.ticks, self.ticks * 10**9))

    @rule(row=ROWS)
    def append(self, row: bytes) -> None:
        self._write(self.versions[-1] + row)

    @rule(content=st.binary(max_size=20))
    def write_anew(self, content: bytes) -> None:
        self._write(content)

    @rule(row=ROWS)
    def add_a_column(self, row: bytes) -> None:
        self._write(row + self.versions[-1])

    # --- the agent ---

    def _start(self) -> None:
        run = RunFiles("a1", UID, "digits", "run_001", self.number, self.folder)
        self.file = Growing(run, NAME, FileJournal(self.store), threading.Event())

    @rule()
    def restart(self) -> None:
        self._start()

    @rule()
    def lose_journal(self) -> None:
        self.store = Store(Path(":memory:"))
        self._start()

    @rule(fate=st.sampled_from(["ok", "ok", "lost_request", "lost_answer", "late"]))
    def step(self, fate: str) -> None:
        if self.path.stat().st_size or self.file.sent is not None:
            self._step(fate)

    def _step(self, fate: str = "ok") -> None:
        self.transport.fates.clear()
        self.transport.fates.append(fate)
        self.file.see(Mark.of(self.path.stat()), 0.0)  # it has stood still for long
        self.file.work(self.transport)

    # --- the network and the server ---

    @precondition(lambda self: self.transport.late)
    @rule()
    def deliver_late(self) -> None:
        self.transport.deliver_late()

    @precondition(lambda self: NAME in self.host.results)
    @rule(left=st.integers(0, 10))
    def lose_the_disk(self, left: int) -> None:
        held = self.host.results[NAME]
        held.content = held.content[:left]
        held.complete = False
        self.host.acked.clear()

    @precondition(lambda self: NAME in self.host.results)
    @rule(row=ROWS)
    def append_by_hand(self, row: bytes) -> None:
        self.host.results[NAME].content += row
        self.host.results[NAME].complete = False
        self.by_hand = True

    @rule()
    def give_up_and_try_again(self) -> None:
        """Another attempt, whose folder begins with what the server had."""
        self.number += 1
        self.host.newest_attempt = self.number
        held = self.host.results.get(NAME)
        self._write(held.content if held else b"")
        self.lose_journal()

    # --- what must hold ---

    @rule()
    def heal(self) -> None:
        self.file.run.exited = True
        for _ in range(30):
            if self.file.settled:
                break
            self._step()
        assert self.file.settled, self.file.error
        held = self.host.results[NAME]
        assert held.content == self.versions[-1]
        assert held.complete
        self.by_hand = False
        self._start()
        self._write(self.versions[-1] + b"+")  # what was settled is nobody's any more; go on

    @invariant()
    def the_copy_is_a_beginning_of_the_file(self) -> None:
        held = getattr(self, "host", FileHost()).results.get(NAME)
        if held is not None and not self.by_hand:
            assert any(version.startswith(held.content) for version in self.versions)

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        held = getattr(self, "host", FileHost()).results.get(NAME)
        if held is not None:
            key = (NAME, held.attempt, held.generation)
            assert self.host.acked.get(key, 0) <= len(held.content)


Sending.TestCase.settings = settings(
    max_examples=int(os.environ.get("LAB_EXAMPLES", "60")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="LAB_EXAMPLES" not in os.environ,
    database=None,
)
TestSending = Sending.TestCase
