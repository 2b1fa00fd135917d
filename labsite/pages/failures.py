"""Why a run failed, as its page opens with it: the error on top, what it means, what to do."""

import re
from dataclasses import dataclass, field

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from experiments.models import Attempt, Job
from labsite.pages.runfiles import Part
from labsite.pages.terminal import html_of
from labsite.pages.tracebacks import Traceback, last_traceback, lines_of

#: How much of the log's end is read for it, and how many lines are shown where there is none.
TAIL_BYTES = 128 * 1024
LAST_LINES = 12
#: Advice is looked for in so many of the last lines, and in what the exception says.
ADVICE_LINES = 120
_MEMORY = r"(?P<{}>[\d.]+ [KMGT]?i?B)"
_GIB = _MEMORY.format


@dataclass(frozen=True)
class Failure:
    traceback: Traceback | None
    advice: list[str]
    last_lines: SafeString | str = ""  # where there is no traceback
    offset: int = 0  # where in the log the traceback begins, in bytes
    facts: list[tuple[str, str]] = field(default_factory=list)  # name and figure


def failure_of(job: Job, part: Part) -> Failure:
    """Args:
    part: the run's log.
    """
    start = max(0, part.size - TAIL_BYTES)
    part.file.seek(start)
    data = part.file.read(part.size - start)
    lines = lines_of(data)
    traceback = last_traceback(lines)
    said = "\n".join(lines[-ADVICE_LINES:])
    if traceback is not None:
        said = "\n".join([said, traceback.exception, *traceback.more])
    newest = job.tries[0] if job.tries else None
    return Failure(
        traceback=traceback,
        advice=advice(said, newest),
        facts=memory_facts(said),
        last_lines="" if traceback else _last(data),
        offset=start + _offset(data, traceback.at) if traceback else 0,
    )


def _last(data: bytes) -> SafeString:
    found = [line for line in re.findall(rb"[^\n]*\n|[^\n]+", data) if line.strip()]
    return html_of(found[-LAST_LINES:], None)


def _offset(data: bytes, line: int) -> int:
    at = 0
    for _line in range(line):
        at = data.find(b"\n", at) + 1
    return at


#: What the words of a log mean: more telling ones first; groups are filled into the sentence.
RULES = [
    (
        re.compile(
            r"CUDA out of memory|OutOfMemoryError: (?:CUDA|HIP)|RESOURCE_EXHAUSTED: Out of memory"
        ),
        gettext_lazy(
            "The GPU's memory was full. Use a smaller batch or gradient accumulation, mixed "
            "precision, or ask for a GPU with more memory (resources: gpu_memory)."
        ),
    ),
    (
        re.compile(
            r"DataLoader worker \(pid[^)]*\) is killed by signal: Bus error"
            r"|unable to (?:open|mmap) shared memory|insufficient shared memory"
        ),
        gettext_lazy(
            "The shared memory of the GPU server (/dev/shm) was full. Use fewer workers in the "
            "DataLoader, or ask your lab manager to make it larger."
        ),
    ),
    (
        re.compile(
            r"DataLoader worker \(pid[^)]*\) is killed by signal: Killed|\bMemoryError\b"
            r"|Cannot allocate memory|DefaultCPUAllocator: can't allocate memory"
        ),
        gettext_lazy(
            "The GPU server's main memory was full. Use fewer workers in the DataLoader, or load "
            "the data piece by piece."
        ),
    ),
    (
        re.compile(r"No space left on device"),
        gettext_lazy(
            "The disk of the GPU server was full. Write fewer checkpoints, or ask your lab "
            "manager to make room there."
        ),
    ),
    (
        re.compile(r"Disk quota exceeded"),
        gettext_lazy("Your disk quota on the GPU server was used up: make room there."),
    ),
    (
        re.compile(r"ModuleNotFoundError: No module named '(?P<name>\w+)"),
        gettext_lazy(
            "Python did not find the package “%(name)s”. Install it in the environment that "
            "the run uses there, or choose another one (lab: python)."
        ),
    ),
    (
        re.compile(
            r"NCCL (?:error|WARN)|nccl(?:System|UnhandledCuda|Internal|Remote)Error"
            r"|Watchdog caught collective operation timeout"
        ),
        gettext_lazy(
            "The GPUs could not talk to each other (NCCL). Often one process failed or hung "
            "first: look for an earlier error in the log. If there is none, run it once with "
            "NCCL_DEBUG=INFO."
        ),
    ),
    (
        re.compile(r"device-side assert triggered"),
        gettext_lazy(
            "A check on the GPU failed, often a class label or an index out of range. Run it once "
            "with CUDA_LAUNCH_BLOCKING=1 to see the line."
        ),
    ),
    (
        re.compile(
            r"no kernel image is available|CUDA driver version is insufficient"
            r"|The NVIDIA driver on your system is too old|not compatible with the current PyTorch"
        ),
        gettext_lazy(
            "This PyTorch does not fit the GPU or its driver there. Install a build for its CUDA "
            "version, or ask for another type of GPU."
        ),
    ),
    (
        re.compile(
            r"No CUDA GPUs are available|Torch not compiled with CUDA enabled"
            r"|Found no NVIDIA driver on your system"
        ),
        gettext_lazy(
            "The script found no GPU. Ask for one (resources: gpus), and use a build of PyTorch "
            "with CUDA."
        ),
    ),
    (
        re.compile(r"Error\(s\) in loading state_dict"),
        gettext_lazy(
            "The checkpoint is of another model than the config describes: names or shapes of its "
            "tensors differ."
        ),
    ),
    (
        re.compile(r"FileNotFoundError: .*No such file or directory: '(?P<name>[^']{1,200})'"),
        gettext_lazy(
            "“%(name)s” is not there on that GPU server. Check the path in the config, and "
            "whether the data lies on this host."
        ),
    ),
    (
        re.compile(r"PermissionError: .*Permission denied: '(?P<name>[^']{1,200})'"),
        gettext_lazy(
            "The user that the run ran as may not use “%(name)s”: change its rights there, or "
            "write somewhere else."
        ),
    ),
    (
        re.compile(
            r"error: (?:unrecognized arguments|the following arguments are required): (?P<what>.+)"
        ),
        gettext_lazy(
            "The script does not know an argument of its command, or misses one: %(what)s. Check "
            "the command."
        ),
    ),
    (
        re.compile(r"error: Failed to parse `uv\.lock`"),
        gettext_lazy(
            "uv cannot read the uv.lock of the run's folder. Make it anew with “uv lock”, and "
            "submit once more."
        ),
    ),
    (
        re.compile(r"error: Failed to download `(?P<name>[^`]{1,200})`"),
        gettext_lazy(
            "uv could not fetch “%(name)s” there; the log says why. Where the GPU server reaches "
            "no package index, a manager sets https_proxy, SSL_CERT_FILE or UV_DEFAULT_INDEX "
            "among its variables."
        ),
    ),
    (
        re.compile(r"error: No interpreter found for Python (?P<what>[^\s]{1,60})"),
        gettext_lazy(
            "The GPU server has no Python %(what)s for uv. Install one there (uv python install), "
            "or let pyproject.toml ask for one that is there (requires-python)."
        ),
    ),
    (
        re.compile(r"Too many open files"),
        gettext_lazy(
            "Too many files were open at once. Close what is read, or use fewer workers."
        ),
    ),
]
MOST_ADVICE = 3


def advice(said: str, newest: Attempt | None) -> list[str]:
    """What to do, by what the log says and by how the process ended."""
    found = [
        str(words) % match.groupdict()
        for pattern, words in RULES
        if (match := pattern.search(said))
    ]
    if not found and newest is not None and newest.exit_code in (-9, 137):
        found = [
            _(
                "Nothing in the log says why. Compare the GPU server's memory at that time with "
                "what the run takes: a process that takes all of it is killed without a word."
            )
        ]
    return found[:MOST_ADVICE]


_ASKED = re.compile(r"Tried to allocate " + _GIB("asked"))
_FREE = re.compile(_GIB("free") + r" (?:is )?free\b")
_TOTAL = re.compile(r"total capacity of " + _GIB("total") + "|" + _GIB("old") + " total capacity")
_HELD = re.compile(
    r"this process has " + _GIB("held") + " memory in use|" + _GIB("old") + " already allocated"
)
_OTHERS = re.compile(r"Process (?P<pid>\d+) has " + _GIB("held") + " memory in use")


def memory_facts(said: str) -> list[tuple[str, str]]:
    """Of a GPU that was full: what was asked for, held and free, as torch's message has it."""
    asked = _ASKED.search(said)
    if asked is None:
        return []
    facts = [(_("Asked for"), asked["asked"])]
    for words, pattern in ((_("Held by this run"), _HELD), (_("Free"), _FREE), (_("Of"), _TOTAL)):
        if found := pattern.search(said):
            facts.append((words, next(filter(None, found.groups()))))
    others = dict(found.groups() for found in _OTHERS.finditer(said))
    for pid, held in list(others.items())[:3]:
        facts.append((_("Held by process %(pid)s") % {"pid": pid}, held))
    return facts
