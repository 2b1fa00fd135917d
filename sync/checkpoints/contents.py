"""What a page tells of a checkpoint of any kind."""

from dataclasses import dataclass
from typing import Any, BinaryIO

from sync.checkpoints import safetensors, tensors, torchfile
from sync.checkpoints.tensors import Found, Group, Tensor

#: By how the file is called.
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".safetensors")


@dataclass(frozen=True)
class Contents:
    tensors: list[Tensor]  # the first ones, in the order of the file
    groups: list[Group]  # the largest first, if there is more than one
    values: list[tuple[str, Any]]  # numbers and words that stand beside them: the epoch
    total: int  # of tensors
    count: int  # of the numbers in all of them: the parameters
    nbytes: int


def is_checkpoint(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def read(name: str, file: BinaryIO, size: int) -> Contents:
    """
    Args:
        name: of the file; its suffix says which kind it is.
        size: so much of it may be read.

    Raises:
        errors.Unreadable: with a sentence for people.
    """
    if name.lower().endswith(".safetensors"):
        return _contents(safetensors.read(file, size))
    return _contents(tensors.find(torchfile.read(file, size)))


def _contents(found: Found) -> Contents:
    groups = sorted(found.groups.values(), key=lambda group: group.nbytes, reverse=True)
    return Contents(
        tensors=found.tensors,
        groups=groups if len(groups) > 1 else [],
        values=found.values,
        total=sum(group.tensors for group in groups),
        count=sum(group.count for group in groups),
        nbytes=sum(group.nbytes for group in groups),
    )
