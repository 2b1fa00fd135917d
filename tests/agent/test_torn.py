"""Which checkpoints were cut off while they were written."""

import io
import random
import struct
from pathlib import Path

import pytest

from agent.files import torn
from tests.agent.torn import safetensors, stored_zip

END64 = struct.Struct("<4sQ2H2L4Q")
MOST_READ_BYTES = 80_000


def is_torn(folder: Path, content: bytes, name: str = "run_001.pt") -> bool:
    path = folder / "file"
    path.write_bytes(content)
    with path.open("rb", buffering=0) as file:
        return torn.is_torn(file, name)


def places(size: int) -> list[int]:
    """Where to cut: near both ends, and anywhere."""
    some = random.Random(1).sample(range(size), min(50, size))
    return sorted({0, 1, 3, 4, 30, size // 2, size - 23, size - 22, size - 4, size - 1, *some})


def as_zip64(content: bytes) -> bytes:
    """With an end such as archives above 4 GiB have: what does not fit stands before it."""
    *_, length, offset, _comment = struct.unpack("<4s4H2LH", content[-22:])
    at = len(content) - 22
    end64 = END64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, length, offset)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    most = 0xFFFFFFFF
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, most, most, 0)
    return content[:at] + end64 + locator + end


@pytest.mark.parametrize("kilobytes", [0, 1, 300])
def test_what_torch_saves_is_whole_and_no_beginning_of_it_is(
    tmp_path: Path, kilobytes: int
) -> None:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save({"epoch": 3, "w": torch.rand(kilobytes, 256)}, file)
    content = file.getvalue()

    assert not is_torn(tmp_path, content)
    assert [at for at in places(len(content)) if not is_torn(tmp_path, content[:at])] == []


def test_what_torch_saved_before_it_wrote_archives_cannot_be_judged(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save({"w": torch.rand(256)}, file, _use_new_zipfile_serialization=False)

    assert not is_torn(tmp_path, file.getvalue()[:-100])


@pytest.mark.parametrize("content", [
    stored_zip(b"weights" * 1000, zip64=True),
    as_zip64(stored_zip(b"weights" * 1000)),
])  # fmt: skip
def test_large_archives_are_known_by_their_own_end(tmp_path: Path, content: bytes) -> None:
    assert not is_torn(tmp_path, content)
    assert [at for at in places(len(content)) if not is_torn(tmp_path, content[:at])] == []


def test_an_end_that_leads_elsewhere_is_none(tmp_path: Path) -> None:
    """As where a file was filled with zeros, or lost a piece of its middle."""
    whole = stored_zip(b"weights" * 1000)
    large = as_zip64(whole)

    assert is_torn(tmp_path, whole[:100] + whole[200:])
    assert is_torn(tmp_path, whole[:100] + bytes(100) + whole[100:])
    assert is_torn(tmp_path, large[:100] + large[200:])


def test_the_end_of_an_archive_within_it_is_not_its_own(tmp_path: Path) -> None:
    inner = stored_zip(b"weights")
    content = stored_zip(inner)
    at = content.index(inner) + len(inner)

    assert not is_torn(tmp_path, content)
    assert is_torn(tmp_path, content[:at])


def test_a_comment_belongs_to_an_archive(tmp_path: Path) -> None:
    content = bytearray(stored_zip(b"weights"))
    content[-2:] = (65_535).to_bytes(2, "little")

    assert not is_torn(tmp_path, bytes(content) + b"c" * 65_535)
    assert is_torn(tmp_path, bytes(content) + b"c" * 65_534)


@pytest.mark.parametrize("name", ["model.safetensors", "MODEL.SAFETENSORS"])
def test_safetensors_end_where_their_last_tensor_does(tmp_path: Path, name: str) -> None:
    content = safetensors(b"weights" * 1000)

    assert not is_torn(tmp_path, content, name)
    cut = [at for at in places(len(content)) if not is_torn(tmp_path, content[:at], name)]
    assert cut == []


@pytest.mark.parametrize("content", [
    bytes(100),
    b"\xff" * 100,
    (5).to_bytes(8, "little") + b"[1,2]",
    (4).to_bytes(8, "little") + b"null",
    (30).to_bytes(8, "little") + b'{"w": {"data_offsets": ["9"]}}',
    (29).to_bytes(8, "little") + b'{"w": {"data_offsets": "999"}}'[:29],
    (60_000).to_bytes(8, "little") + b"[" * 60_000,
])  # fmt: skip
def test_safetensors_that_are_none_cannot_be_judged(tmp_path: Path, content: bytes) -> None:
    assert not is_torn(tmp_path, content, "model.safetensors")


@pytest.mark.parametrize(("name", "content", "expected"), [
    ("run_001.pt", b"", True),
    ("model.safetensors", b"", True),
    ("features.bin", b"", False),
    ("pytorch_model.bin", stored_zip(b"weights")[:-1], True),
    ("features.bin", bytes(100), False),
    ("run_001.pt", b"weights", False),
    ("run_001.pt", b"PK", True),
    ("features.bin", b"P", False),
    ("features.bin", b"PK", False),
    ("features.bin", b"PK\3\4", True),
    ("run_001.pt.tmp", stored_zip(b"weights")[:-1], True),
])  # fmt: skip
def test_what_is_empty_or_of_another_kind(
    tmp_path: Path, name: str, content: bytes, expected: bool
) -> None:
    assert is_torn(tmp_path, content, name) is expected


def test_of_a_large_one_only_its_ends_are_read(tmp_path: Path) -> None:
    content = stored_zip(bytes(10_000_000))
    path = tmp_path / "file"
    path.write_bytes(content)
    with Counting(path) as file:
        assert not torn.is_torn(file, "run_001.pt")  # type: ignore[arg-type]
        assert file.read_bytes < MOST_READ_BYTES


class Counting(io.FileIO):
    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(size) or b""
        self.read_bytes += len(block)
        return block
