"""Deep calls ask the system for memory once, and not at each call at the edge of a piece."""

import resource
import sys
import threading

import pytest

from labsite.stackroom import with_room

DEPTH, CALLS = 150, 500


def nothing() -> None:
    pass


def at_each_depth(left: int) -> None:
    for _ in range(CALLS):
        nothing()
    if left:
        at_each_depth(left - 1)


def faults_of_a_thread(call, *given) -> int:
    found = []

    def measured() -> None:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        call(*given)
        found.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

    thread = threading.Thread(target=measured)
    thread.start()
    thread.join()
    return found[0]


def test_what_is_called_with_room_is_answered():
    assert with_room(int, "7", 8) == 7
    with pytest.raises(ZeroDivisionError):
        with_room(divmod, 1, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults of a thread")
def test_no_depth_is_at_the_edge_of_a_piece():
    """Without room: some hundred faults at each of the depths that meet an edge."""
    assert faults_of_a_thread(with_room, at_each_depth, DEPTH) < CALLS / 2
