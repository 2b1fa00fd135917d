"""What the `lab` command ends with, and why (docs/lab.md lists the exit codes)."""

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    FAILED = 1  # a run that was watched, or a file that was pulled, did not end well
    USAGE = 2  # what was asked for cannot be done as it was written
    UNREACHABLE = 3  # no answer, or none of a lab server; asking again may help
    REFUSED = 4  # the server understood, and will not: not signed in, not allowed, not now
    NOT_FOUND = 5
    INTERRUPTED = 130


class CliError(Exception):
    """One sentence for the person at the terminal, which says what to do; no traceback."""

    def __init__(self, message: str, exit_code: int = Exit.USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ServerRefused(CliError):
    """The server answered, and not with what was asked for.

    `status` is HTTP's, `code` the server's word for programs (docs/protocol.md), `facts` the body
    of the answer.
    """

    def __init__(
        self, message: str, exit_code: int, status: int, facts: dict[str, object]
    ) -> None:
        super().__init__(message, exit_code)
        self.status = status
        self.code = str(facts.get("code", "unknown"))
        self.facts = facts
