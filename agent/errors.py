"""What can go wrong in the agent.

AgentError
├── ServerUnreachable   no answer, or 408, 423, 429, 5xx: it may pass, so try again later
│   └── NotTheServer    something answers there, and it is not our server
│       └── AnswerTooLong   or it is, and tells of some 80 000 files of a run
├── Rejected            4xx: this request will not succeed as it stands; `code` says why
│   ├── Unauthorized    401, 403: nor will any other; start nothing, keep what runs, ask on
│   └── WrongProtocol   426: agent and server are of different versions
├── ConfigError         the agent cannot start; the message says what to do
│   └── CodeRefused     by its enrollment code it is not let in
└── StartFailed         an attempt cannot start; the message goes to the person who submitted it
    ├── GPUTaken        another agent of this host has its GPU: no fault of the job
    └── Lacking         the host has not what the job requires: nor is this (agent.lacks)
"""

from typing import Any


class AgentError(Exception):
    """Whatever the agent expects to go wrong."""


class ServerUnreachable(AgentError):
    """`retry_after_seconds` is what the server asked for, if it did."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotTheServer(ServerUnreachable):
    pass


class AnswerTooLong(NotTheServer):
    pass


class Rejected(AgentError):
    """`facts` is the body of the answer: the truth to go on from (protocol §7)."""

    def __init__(self, status: int, code: str, facts: dict[str, Any]) -> None:
        super().__init__(str(facts.get("detail") or f"{status} {code}"))
        self.status = status
        self.code = code
        self.facts = facts


class Unauthorized(Rejected):
    pass


class WrongProtocol(Rejected):
    pass


class ConfigError(AgentError):
    pass


class CodeRefused(ConfigError):
    pass


class StartFailed(AgentError):
    pass


class GPUTaken(StartFailed):
    def __init__(self, uuid: str) -> None:
        super().__init__(
            f"The GPU {uuid} is in use by another agent on this host, which works for another lab "
            "server, or for this one under another name"
        )
        self.uuid = uuid
