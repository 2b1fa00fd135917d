"""Laying a commit of a repository into an attempt's folder, as the job's user.

git itself runs with that user's rights, home and credentials, never with root's: a repository's
address is what a submitter wrote. One clone a URL and project serves all attempts after it.
"""

import fcntl
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.code.folders import CodeFolder
from agent.errors import StartFailed
from agent.users import User
from agent.wire import Code

FETCH_SECONDS = 1800.0
LOOK_SECONDS = 0.2
END_SECONDS = 5.0  # to take its own locks away, when it is told to end
#: Nothing of git's goes on when it has ended: it would hold the lock of the clone.
IN_FRONT = ("-c", "gc.autoDetach=false", "-c", "maintenance.autoDetach=false")
#: Not `ext::`, by which an address is a command.
PROTOCOLS = "file:git:http:https:ssh"
#: Of the agent's own variables, what git needs to get out of a lab's network.
PROXIES = ("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY")
CERTIFICATES = ("GIT_SSL_CAINFO",)


class GivenUp(Exception):
    """Nobody wishes the attempt to start any more."""


def clone_of(url: str, above: Path) -> Path:
    """Where the clone of a repository lies, or is to lie, beside the folders of attempts."""
    return above / f".git-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


class Git:
    """git, as one user of this host."""

    def __init__(
        self,
        user: User,
        gone: Callable[[], bool],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`gone`: whether the attempt was given up; asked while git works."""
        self._user = user
        self._gone = gone
        self._locks: list[int] = []  # which git inherits, as it outlives this agent
        self._environ = {
            **{name: environ[name] for name in (*PROXIES, *CERTIFICATES) if name in environ},
            "HOME": str(user.home),
            "USER": user.name,
            "LANG": "C.UTF-8",
            "PATH": environ.get("PATH", os.defpath),
            "GIT_ALLOW_PROTOCOL": PROTOCOLS,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        }

    def lay(self, code: Code, folder: CodeFolder) -> None:
        """Check `code.commit` out into a folder that was begun; clones lie beside it.

        Raises:
            StartFailed: it cannot; the message says what to do.
            GivenUp: nobody wishes it any more.
        """
        clone = clone_of(code.url, folder.above)
        with self._locked(clone.with_name(f"{clone.name}.lock")):
            if not self._has(clone, code.commit):
                self._fetch(clone, code)
            commit = self._run(clone, "rev-parse", f"{code.commit}^{{commit}}").strip()
            folder.begin()  # once more: git that an earlier agent left may have filled it since
            self._run(clone, "worktree", "prune")
            self._run(clone, "worktree", "add", "--detach", "--force", str(folder.path), commit)

    def _fetch(self, clone: Path, code: Code) -> None:
        self._run(None, "init", "--quiet", "--bare", str(clone))
        self._run(
            clone, "fetch", "--quiet", "--prune", "--force", "--", code.url,
            "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*",
        )  # fmt: skip
        if not self._has(clone, code.commit):
            with suppress(StartFailed):  # not every server gives out what no branch names
                self._run(clone, "fetch", "--quiet", "--", code.url, code.commit)
        if not self._has(clone, code.commit):
            raise StartFailed(
                f"{code.url} has no commit {code.commit}: push it there, or submit the code "
                "itself (lab submit without --code)"
            )

    def _has(self, clone: Path, commit: str) -> bool:
        try:
            self._run(clone, "cat-file", "-e", f"{commit}^{{commit}}")
        except StartFailed:
            return False
        return True

    def _run(self, clone: Path | None, *words: str) -> str:
        where = [] if clone is None else ["-C", str(clone)]
        other = {} if self._user.is_own else _as(self._user)
        try:
            child = subprocess.Popen(
                ["git", *IN_FRONT, *where, *words],
                env=self._environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=self._locks,
                **other,  # type: ignore[call-overload]
            )
        except OSError as exc:
            raise StartFailed(f"git cannot be run on this host ({exc.strerror})") from exc
        output, complaint = self._wait(child)
        if child.returncode != 0:
            last = complaint.decode(errors="replace").strip().splitlines()[-1:]
            raise StartFailed(
                f"git {words[0]} failed on this host as {self._user.name!r}: "
                f"{(last or ['without a word'])[0][:500]}. Does that user have access to the "
                "repository there?"
            )
        return output.decode(errors="replace")

    def _wait(self, child: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
        deadline = time.monotonic() + FETCH_SECONDS
        while True:
            try:
                return child.communicate(timeout=LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                is_gone = self._gone()
                if is_gone or time.monotonic() > deadline:
                    _end(child)
                    if is_gone:
                        raise GivenUp from None
                    words = f"git was not done after {FETCH_SECONDS / 60:.0f} minutes on this host"
                    raise StartFailed(words) from None

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """One at a time at a clone, of all attempts of this host."""
        with self._user.rights():
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            while not _takes(lock):
                if self._gone():
                    raise GivenUp
                time.sleep(LOOK_SECONDS)  # flock(2) knows no timeout, and may be waited for long
            self._locks.append(lock)
            yield
        finally:
            self._locks.clear()
            os.close(lock)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """By SIGTERM first: killed at once, git leaves locks in the clone that nobody takes away."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signum)
        with suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=END_SECONDS)
            return


def _takes(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _as(user: User) -> dict[str, object]:
    """Of Popen: to run as another. The agent is root then."""
    return {
        "user": user.uid,
        "group": user.gid,
        "extra_groups": list(user.groups),
        "umask": 0o027,
    }
