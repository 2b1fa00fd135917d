"""What is told of checkpoints, and that a hostile one does nothing but be refused."""

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest

from sync.checkpoints import pickles, tensors, torchfile
from sync.checkpoints.contents import read
from sync.checkpoints.errors import Unreadable
from sync.checkpoints.pickles import Made, Pairs

HERE = Path(__file__).parent


class FloatStorage:
    """As a pickle of torch names it."""


def _rebuild_tensor_v2(*args):
    """As a pickle of torch calls it."""


FloatStorage.__module__ = _rebuild_tensor_v2.__module__ = "torch"


class Tensor:
    def __init__(self, shape, key, kind=FloatStorage):
        self.args = (("storage", kind, key, "cuda:0", 8), 0, shape, (1,), False, OrderedDict())


class Pickler(pickle._Pickler):
    """Writes what torch.save writes, without torch."""

    def save_global(self, obj, name=None):
        self.write(b"c" + f"{obj.__module__}\n{obj.__qualname__}\n".encode())

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Tensor):
            storage, *rest = obj.args
            self.save_global(_rebuild_tensor_v2)
            self.write(b"(")
            super().save(storage)
            self.write(b"Q")
            for part in rest:
                super().save(part)
            self.write(b"tR")
        elif obj is FloatStorage:
            self.save_global(obj)
        else:
            super().save(obj, save_persistent_id)


def pickled(value, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def archived(pickle_bytes: bytes, *, name: str = "archive/data.pkl", packed: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        archive.writestr(name, pickle_bytes)
        archive.writestr("archive/version", "3")
    return buffer.getvalue()


def told(data: bytes, name: str = "epoch_1.pt"):
    return read(name, io.BytesIO(data), len(data))


MODEL = OrderedDict(
    [("conv.weight", Tensor((64, 3, 7, 7), "0")), ("fc.weight", Tensor((10, 64), "1"))]
)
STATE = {
    "model": MODEL,
    "epoch": 62,
    "best": 0.94,
    "name": "안녕",
    "tied": {"w": Tensor((10, 64), "1")},
}


# --- what is told --------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_tensors_values_and_totals(protocol, packed):
    contents = told(archived(pickled(STATE, protocol), packed=packed))

    assert [(one.name, one.dtype, one.shape_words) for one in contents.tensors] == [
        ("model.conv.weight", "float32", "64 × 3 × 7 × 7"),
        ("model.fc.weight", "float32", "10 × 64"),
        ("tied.w", "float32", "10 × 64"),
    ]
    assert contents.values == [("epoch", 62), ("best", 0.94), ("name", "안녕")]
    assert [(group.name, group.count) for group in contents.groups] == [
        ("model", 10048),
        ("tied", 0),
    ]
    assert (contents.total, contents.count, contents.nbytes) == (3, 10048, 40192)


def test_a_checkpoint_of_before_archives():
    head = torchfile.LEGACY + pickled(1001) + pickled({"little_endian": True})

    assert told(head + pickled(STATE) + b"\x00" * 100).total == 3


def test_torch_itself_writes_what_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    state = {"model": model.state_dict(), "half": torch.zeros(3, 4, dtype=torch.bfloat16)}
    for legacy in (False, True):
        torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        contents = told((tmp_path / "a.pt").read_bytes())

        sizes = {name: tuple(one.shape) for name, one in model.state_dict().items()}
        assert {one.name.removeprefix("model."): one.shape for one in contents.tensors} == {
            **sizes, "half": (3, 4),
        }  # fmt: skip
        assert {one.dtype for one in contents.tensors} == {"float32", "int64", "bfloat16"}


def safetensors(header: object, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\x00" * 64


def test_safetensors():
    header = {
        "__metadata__": {"epoch": "3"},
        "fc.weight": {"dtype": "BF16", "shape": [4, 2], "data_offsets": [0, 16]},
        "fc.bias": {"dtype": "F32", "shape": [], "data_offsets": [16, 20]},
    }

    contents = told(safetensors(header), "model.safetensors")

    assert [(one.name, one.dtype, one.shape) for one in contents.tensors] == [
        ("fc.weight", "bfloat16", (4, 2)),
        ("fc.bias", "float32", ()),
    ]
    assert (contents.count, contents.nbytes, contents.values) == (9, 20, [("epoch", "3")])


def test_of_many_tensors_the_first_are_listed_and_all_are_counted(monkeypatch):
    monkeypatch.setattr(tensors, "LISTED", 5)

    contents = told(archived(pickled({f"w{n}": Tensor((2,), str(n)) for n in range(50)})))

    assert (len(contents.tensors), contents.total, contents.count) == (5, 50, 100)


def test_every_pickle_of_pythons_own_is_read_as_notes():
    values = [None, True, 7, -1, 2**70, 1.5, "é\n", b"\xff", (1,), [1, [2]], {"a": {"b": 1}}, {1}]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        notes, end = pickles.read(pickle.dumps(values, protocol) + b"rest")

        assert isinstance(notes, list)
        assert notes[1:4] == [True, 7, -1]
        assert isinstance(notes[10], Pairs)
        assert end == len(pickle.dumps(values, protocol))


# --- hostile files -------------------------------------------------------------------------------


class Attack:
    def __reduce__(self):
        return os.system, ("touch /tmp/harmed",)


DEEP = b"\x80\x02" + b"(" * 300_000 + b"t" * 300_000 + b"."
#: Python's own unpickler hashes the key, and overflows its stack.
DEEP_KEY = b"\x80\x02})" + b"\x85" * 400_000 + b"K\x01s."
LAUGHS = b"\x80\x02]q\x00" + b"".join(
    b"]q" + bytes([n]) + b"(" + (b"h" + bytes([n - 1])) * 9 + b"e" for n in range(1, 60)
) + b"."  # fmt: skip
HOSTILE = {
    "calls": pickle.dumps(Attack()),
    "state": pickle.dumps([Attack()], 0),
    "memo": b"\x80\x02]r\xff\xff\xff\xff.",
    "deep": DEEP,
    "deep key": DEEP_KEY,
    "laughs": LAUGHS,
    "cycle": b"\x80\x02]q\x00h\x00a.",
    "long number": b"\x80\x02\x8b\x00\x00\x10\x00" + b"\xff" * 1_048_576 + b".",
    "typed number": b"I" + b"9" * 100_000 + b"\n.",
    "long text": b"\x80\x02\x8d" + struct.pack("<Q", 2**63) + b"x.",
    "many lists": b"\x80\x02(" + b"]" * 3_000_000 + b"l.",
    "many calls": b"\x80\x02(" + b"N)R" * 900_000 + b"l.",
    "big shape": pickled({"w": Tensor((2**61,) * 16, "0")}),
    "bad shape": pickled({"w": Tensor((-1, "x"), "0")}),
    "no stop": b"\x80\x02]",
    "empty stack": b"\x80\x02R.",
    "unknown": b"\x80\x02\xfe.",
    "nothing": b"",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_is_told_or_refused_and_nothing_else(case):
    for data in (archived(HOSTILE[case]), HOSTILE[case]):
        with suppress(Unreadable):
            assert told(data).total <= 1


def test_what_a_file_would_call_is_noted_only():
    note, _end = pickles.read(HOSTILE["calls"])

    assert isinstance(note, Made)
    assert str(note.what) in ("posix.system", "nt.system")
    assert note.args == ("touch /tmp/harmed",)


def bomb() -> bytes:
    return archived(b"\x80\x02" + b"0" * 50_000_000, packed=zipfile.ZIP_DEFLATED)


def endless_list() -> bytes:
    whole = bytearray(archived(pickled(STATE)))
    at = whole.rfind(b"PK\x05\x06")
    struct.pack_into("<L", whole, at + 12, 2**31)
    return bytes(whole)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bomb, id="bomb"),
        pytest.param(endless_list, id="endless list"),
        pytest.param(lambda: archived(pickled(STATE))[:-30], id="cut"),
        pytest.param(lambda: archived(pickled(STATE), name="other"), id="no pickle"),
        pytest.param(lambda: archived(pickled(STATE), packed=zipfile.ZIP_LZMA), id="lzma"),
        pytest.param(lambda: b"PK\x03\x04" + os.urandom(5000), id="noise"),
        pytest.param(lambda: b"\x7fELF" + b"x" * 500, id="program"),
    ],
)
def test_a_hostile_archive_is_refused(data):
    with pytest.raises(Unreadable):
        told(data())


@pytest.mark.parametrize(
    "data",
    [
        safetensors({}, 2**63),
        safetensors({}, 0),
        safetensors(b"[" * 200_000),
        safetensors([1]),
        safetensors({"w": {"dtype": "F32", "shape": [-1]}}),
        safetensors({"w": {"dtype": "F32", "shape": [[1]]}}),
        safetensors({"w": 3}),
        safetensors({"__metadata__": 3}),
        safetensors(b"{\xff}"),
        b"",
    ],
)
def test_a_hostile_header_is_refused(data):
    with pytest.raises(Unreadable):
        told(data, "model.safetensors")


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_to_a_checkpoint_is_an_error_of_ours(seed):
    dice = random.Random(seed)
    whole = bytearray(archived(pickled(STATE, dice.choice([2, 4]))))
    for _hit in range(dice.randint(1, 12)):
        whole[dice.randrange(len(whole))] = dice.randrange(256)
    noise = bytes(dice.choices(b"(.]})Rbtsuea\x85\x86Q\x94\x93NK\x00\x01c\nqh", k=200))
    for data in (bytes(whole), b"\x80" + noise, pickled(STATE)[: dice.randrange(200)]):
        with suppress(Unreadable):
            assert told(data) is not None


def test_reading_any_of_them_opens_starts_and_imports_nothing(tmp_path):
    """In a process of its own: nobody can stop listening to Python's audit events."""
    for number, case in enumerate(HOSTILE):
        (tmp_path / f"{number}.pt").write_bytes(archived(HOSTILE[case]))
        (tmp_path / f"{number}.pkl").write_bytes(HOSTILE[case])
    (tmp_path / "whole.pt").write_bytes(archived(pickled(STATE)))

    done = subprocess.run(
        [sys.executable, HERE / "audited.py", tmp_path],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )

    events, modules, grown_mib = done.stdout.splitlines()
    assert (events, modules) == ("", "")
    assert int(grown_mib) < 300
