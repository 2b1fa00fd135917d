"""How much of the line files take."""

import threading

import pytest

from agent import shim
from agent.files.bandwidth import Bandwidth, Paced


def took(*bodies: Paced) -> float:
    began = shim.now()
    threads = [threading.Thread(target=lambda body=body: list(body)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return shim.now() - began


class Blocks:
    def __init__(self, number: int, size: int = 10_000) -> None:
        self._blocks = [bytes(size)] * number

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._blocks)


def test_all_that_send_share_one_rate() -> None:
    line = Bandwidth(200_000)
    bodies = [Paced(Blocks(5), line, first=number == 0) for number in range(4)]

    assert 0.9 <= took(*bodies) < 3  # 200 000 bytes, less the last block


def test_curves_and_logs_go_before_checkpoints() -> None:
    line = Bandwidth(100_000)
    order: list[str] = []

    def send(name: str, blocks: int) -> None:
        for block in Paced(Blocks(blocks), line, first=name == "csv"):
            order.append(name)
            assert block

    checkpoint = threading.Thread(target=send, args=("pt", 6))
    checkpoint.start()
    while not order:
        threading.Event().wait(0.005)
    curve = threading.Thread(target=send, args=("csv", 4))
    curve.start()
    for thread in (checkpoint, curve):
        thread.join(10)

    assert order.index("csv") <= 2
    assert order[order.index("csv") :][:4] == ["csv"] * 4


def test_a_body_knows_its_length() -> None:
    assert len(Paced(Blocks(3), Bandwidth(1e6), first=True)) == 30_000


@pytest.mark.parametrize("first", [True, False])
def test_one_block_waits_for_nobody(first: bool) -> None:
    assert took(Paced(Blocks(1), Bandwidth(64_000), first=first)) < 0.5
