"""A real network that fails: the agent in a network namespace of its own, behind a cable."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.faults.stack import Stack
from tests.promise.witness import UNTIL_TOLD_SECONDS, Witness

CUT_SECONDS = 40.0  # long enough that the server takes the host for gone
GPU = {"gpus": 1}


@dataclass(frozen=True)
class Cable:
    """A veth pair between this namespace, where the server is, and the agent's own."""

    name: str
    net: str

    @property
    def here(self) -> str:
        return f"{self.net}.1"

    @property
    def there(self) -> str:
        return f"{self.net}.2"

    @property
    def ends(self) -> tuple[str, str]:
        return f"{self.name}a", f"{self.name}b"

    @property
    def within(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def lay(self) -> None:
        ours, theirs = self.ends
        ip("netns", "add", self.name)
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", self.name)
        ip("addr", "add", f"{self.here}/24", "dev", ours)
        ip("link", "set", ours, "up")
        self._inside("addr", "add", f"{self.there}/24", "dev", theirs)
        self._inside("link", "set", theirs, "up")
        self._inside("link", "set", "lo", "up")

    def remove(self) -> None:
        subprocess.run(["ip", "link", "del", self.ends[0]], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def pull(self) -> None:
        """No carrier on either side: both hosts know at once."""
        ip("link", "set", self.ends[0], "down")

    def plug_in(self) -> None:
        ip("link", "set", self.ends[0], "up")

    def swallow(self) -> None:
        """Frames leave for an address that nobody has: neither side is told of anything."""
        nobody = ("lladdr", "02:00:00:00:de:ad", "nud", "permanent", "dev")
        ip("neigh", "replace", self.there, *nobody, self.ends[0])
        self._inside("neigh", "replace", self.here, *nobody, self.ends[1])

    def pass_on(self) -> None:
        ip("neigh", "del", self.there, "dev", self.ends[0])
        self._inside("neigh", "del", self.here, "dev", self.ends[1])

    def _inside(self, *arguments: str) -> None:
        subprocess.run([*self.within, "ip", *arguments], check=True, capture_output=True)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def cable() -> Iterator[Cable]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    number = random.randrange(1, 255)
    laid = Cable(f"lab{os.getpid() % 100_000}n", f"10.213.{number}")
    try:
        laid.lay()
    except subprocess.CalledProcessError as exc:
        laid.remove()
        pytest.skip(f"no network namespace can be made here: {exc.stderr!r}")
    try:
        yield laid
    finally:
        laid.remove()


@pytest.mark.parametrize(
    ("cut", "mend"), [(Cable.pull, Cable.plug_in), (Cable.swallow, Cable.pass_on)]
)
def test_a_job_trains_on_while_its_hosts_network_is_gone(
    stack: Stack,
    cable: Cable,
    cut: Callable[[Cable], None],
    mend: Callable[[Cable], None],
):
    lab = stack.lab("lab", "--host", "0.0.0.0").start()
    url = f"http://{cable.here}:{lab.port}"
    agent = stack.agent(lab, "gpu1", url, "--simulate-gpus", "2")
    agent.within = cable.within
    agent.start()
    long = Witness.start(lab, agent, UNTIL_TOLD_SECONDS, "long", resources=GPU)
    short = Witness.start(lab, agent, 10, "short", resources=GPU, on_device_lost="requeue")

    cut(cable)
    time.sleep(CUT_SECONDS)
    assert lab.device("gpu1")["state"] == "disconnected"
    assert long.goes_on()
    assert not short.process.alive
    assert [lab.job(witness.uid)["state"] for witness in (long, short)] == ["running"] * 2
    mend(cable)
    agent.wait_healthy()

    for witness in (long, short):
        witness.ends_well()
