"""Event files as TensorBoard's own code writes them, restarts, and several files in one folder."""

from typing import BinaryIO

import numpy as np
import pytest

pytest.importorskip("tensorboard")
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from sync import storage
from sync.curves import kept, shown
from sync.curves.events import Events
from sync.curves.table import Table
from tests.sync.curves import Seen
from tests.sync.test_hostile_curves import read, record

pytestmark = pytest.mark.django_db
SCALARS = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))


@pytest.fixture(autouse=True)
def _nothing_kept():
    kept.shelf.clear()


def event(summary: Summary, step: int = 0, seconds: float = 100.0) -> bytes:
    message = Event(wall_time=seconds, step=step, summary=summary)
    return record(message.SerializeToString())


def simple(tag: str, value: float) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


def tensor(tag: str, proto: TensorProto, metadata: SummaryMetadata | None = SCALARS) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, tensor=proto, metadata=metadata)])


def content(value: object, dtype: int) -> TensorProto:
    return TensorProto(dtype=dtype, tensor_content=np.asarray(value).tobytes())


def values(data: bytes) -> dict[str, list[float]]:
    table = read_events(data)
    return {
        name: column.values.tolist()
        for name, column in table.columns.items()
        if name not in ("step", "time")
    }


def read_events(data: bytes) -> Table:
    return read(Events, data)


def test_each_way_to_write_a_scalar_is_read():
    data = b"".join(
        event(summary)
        for summary in [
            simple("simple", 0.5),
            scalar_pb("tf2", 0.25),
            tensor("float", make_tensor_proto(np.float32(1.5))),
            tensor("double", make_tensor_proto(np.float64(1e-300))),
            tensor("int", make_tensor_proto(np.int32(-7))),
            tensor("long", make_tensor_proto(np.int64(-(2**40)))),
            tensor("half", make_tensor_proto(np.float16(0.75))),
            tensor("packed", content(np.float64(3.25), 2)),
            tensor("packed_half", content(np.float16(2.5), 19)),
            tensor("bfloat16", TensorProto(dtype=14, half_val=[0x3FC0])),
            tensor("zero", make_tensor_proto(np.float32(0))),
        ]
    )

    assert values(data) == {
        "simple": [0.5], "tf2": [0.25], "float": [1.5], "double": [1e-300], "int": [-7],
        "long": [-(2.0**40)], "half": [0.75], "packed": [3.25], "packed_half": [2.5],
        "bfloat16": [1.5], "zero": [0],
    }  # fmt: skip


def test_what_is_no_scalar_is_left_out():
    hparams = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="hparams"))
    data = b"".join(
        event(summary)
        for summary in [
            text_pb("text", "lr: 0.1"),
            tensor("vector", make_tensor_proto(np.float32([1, 2]))),
            tensor("hparams", make_tensor_proto(np.float32(0)), hparams),
            tensor("hparams", make_tensor_proto(np.float32(1)), None),
            tensor("string", make_tensor_proto("x")),
            tensor("nothing", TensorProto()),
            Summary(),
        ]
    )

    assert values(data) == {}


def test_a_negative_step_and_none_are_steps():
    data = event(simple("a", 1), step=-1) + event(simple("a", 2))

    assert read_events(data).columns["step"].values.tolist() == [-1, 0]


FIRST, SECOND = (f"run_001/tb/events.out.tfevents.{number}.host" for number in (1, 2))


def steps(first: int, last: int, offset: float, seconds: float) -> bytes:
    return b"".join(
        event(simple("loss", step + offset), step, seconds + step) for step in range(first, last)
    )


def test_files_of_one_folder_are_merged_and_after_a_restart_the_later_counts(run):
    run.full(steps(4, 9, 0.5, 2000), SECOND)
    run.full(steps(0, 7, 0.0, 1000), FIRST)

    seen = Seen(shown.of(run.attempt.job))

    expected = [(step, step + (0.5 if step >= 4 else 0.0)) for step in range(9)]
    assert seen.by("step") == {"loss": expected}
    assert seen.by("time")["loss"][-1] == (2008, 8.5)


def test_a_restart_into_the_same_file_counts_too(run):
    run.full(steps(0, 7, 0.0, 1000) + steps(4, 5, 0.5, 2000), FIRST)

    assert Seen(shown.of(run.attempt.job)).series["loss"] == [0, 1, 2, 3, 4.5, 5, 6]


def test_a_step_that_comes_again_takes_the_place_of_the_one_that_was_shown(run):
    run.full(steps(0, 3, 0.0, 1000), FIRST)
    first = Seen(shown.of(run.attempt.job))
    run.full(steps(0, 3, 0.0, 1000) + steps(2, 4, 0.5, 2000), FIRST)

    seen = Seen(shown.of(run.attempt.job, first.have))

    assert (seen.start, seen.series["loss"]) == (0, [0, 1, 2.5, 3.5])


def test_an_event_file_that_grew_is_read_on(run):
    whole = steps(0, 20, 0.0, 1000)
    run.full(whole[: len(whole) // 2], FIRST, generation=1)
    first = Seen(shown.of(run.attempt.job))
    run.full(whole, FIRST, generation=2)

    more = Seen(shown.of(run.attempt.job, first.have))

    assert more.start == len(first.series["loss"])
    assert first.series["loss"] + more.series["loss"] == list(range(20))


def test_of_an_event_file_that_grows_a_torn_record_is_not_there_yet(run):
    records = [steps(step, step + 1, 0.0, 1000) for step in range(4)]
    whole, ends = b"".join(records), np.cumsum([len(one) for one in records])
    answer: dict[str, object] = {}

    for offset, byte in enumerate(whole):
        run.delta(bytes([byte]), name=FIRST, generation=1, offset=offset)
        answer = shown.of(run.attempt.job)
        assert Seen(answer).series.get("loss", []) == list(range((ends <= offset + 1).sum()))
        assert Seen(answer).notes == {}

    assert run.row(FIRST).generation == 1


def test_of_an_event_file_only_what_was_acknowledged_is_read(run):
    """A server that was killed between the bytes and the row; the next writer cuts them off."""
    run.delta(steps(0, 3, 0.0, 1000), name=FIRST, generation=1, offset=0)
    with run.target(FIRST).place.path.open("ab") as file:
        file.write(steps(3, 9, 0.5, 1000))

    assert Seen(shown.of(run.attempt.job)).series == {"loss": [0, 1, 2]}


def test_a_row_more_of_a_long_event_file_is_read_for_the_price_of_a_row(run, monkeypatch):
    long = steps(0, 20_000, 0.0, 1000)
    run.delta(long, name=FIRST, generation=1, offset=0)
    have = Seen(shown.of(run.attempt.job)).have
    read: list[int] = []
    take = Events.take

    def counted(events: Events, data: bytes) -> int:
        read.append(len(data))
        return take(events, data)

    monkeypatch.setattr(Events, "take", counted)
    row = steps(20_000, 20_001, 0.0, 1000)
    run.delta(row, name=FIRST, generation=1, offset=len(long))

    assert Seen(shown.of(run.attempt.job, have)).series == {"loss": [20_000]}
    assert read == [len(row)]


def test_another_file_of_the_same_name_is_read_from_its_beginning(run):
    run.full(steps(0, 9, 0.0, 1000), FIRST)
    first = Seen(shown.of(run.attempt.job))
    run.full(steps(0, 12, 0.5, 3000), FIRST, generation=2)

    seen = Seen(shown.of(run.attempt.job, first.have))

    assert (seen.start, seen.series["loss"][:2]) == (0, [0.5, 1.5])


def test_a_file_that_is_gone_takes_its_rows_with_it(run):
    run.full(steps(0, 3, 0.0, 1000), FIRST)
    run.full(steps(3, 5, 0.0, 1000), SECOND)
    shown.of(run.attempt.job)

    run.attempt.job.files.filter(name=SECOND).delete()

    assert Seen(shown.of(run.attempt.job)).series["loss"] == [0, 1, 2]


def test_however_many_files_a_folder_holds_one_is_open_at_a_time(run, monkeypatch):
    """A study of a thousand trials that all write into one folder."""
    for trial in range(5):
        run.full(steps(trial, trial + 1, 0.0, 1000), f"run_001/tb/events.out.tfevents.{trial}")
    opened: list[BinaryIO] = []
    really = storage.open_file

    def count(place: storage.Place) -> BinaryIO:
        assert all(file.closed for file in opened)
        opened.append(really(place))
        return opened[-1]

    monkeypatch.setattr(storage, "open_file", count)

    assert Seen(shown.of(run.attempt.job)).series == {"loss": [0, 1, 2, 3, 4]}
    assert len(opened) == 5


def test_an_epoch_that_is_a_tag_of_its_own_is_an_axis(run):
    data = b"".join(
        event(simple("loss", step / 8), step) + event(simple("epoch", step // 2), step)
        for step in range(4)
    )
    run.full(data, FIRST)

    assert Seen(shown.of(run.attempt.job)).by("epoch")["loss"] == [
        (0, 0.0), (0, 0.125), (1, 0.25), (1, 0.375)
    ]  # fmt: skip
