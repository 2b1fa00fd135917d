"""Checkpoints as they are written, to be cut off."""

import io
import json
import zipfile


def stored_zip(content: bytes, *, zip64: bool = False) -> bytes:
    """An archive such as torch.save makes."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        archive.open("archive/data/0", "w", force_zip64=zip64) as member,
    ):
        member.write(content)
    return file.getvalue()


def safetensors(tensors: bytes) -> bytes:
    facts = {"dtype": "U8", "shape": [len(tensors)], "data_offsets": [0, len(tensors)]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": facts}).encode()
    return len(header).to_bytes(8, "little") + header + tensors
