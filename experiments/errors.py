"""What this app refuses.

Refused
├── IllegalTransition   the job's state does not allow it; asking again will not help
├── LostRace            it did when we looked; somebody else was first
├── AttemptEnded        a report of an attempt that has ended: whatever it did, it is settled
├── ProjectArchived     the project is read-only until it is taken out of the archive
├── SweepNotEnded       runs of a sweep wait, run or are needed
├── NotYours            only its owner or a manager may do this
├── NotSubmitted        a job that cannot be queued as it stands
├── KeyReused           the key of a submit stands for another one
├── SecretInvalid       a secret that cannot be kept
├── ChannelInvalid      a notification that cannot be kept
├── SecretsLocked       the key is missing that opens the secrets kept here
├── QueryWrong          a query of a table of runs that cannot be read: where, and why
├── TagsWrong           tags that cannot be kept
├── NothingFree         no GPU to borrow, or none more for this person
└── ViewInvalid         a view that cannot be saved
"""

from typing import Any

from labsite.errors import BadRequest, Refused


class IllegalTransition(Refused):
    code = "illegal_transition"

    @classmethod
    def of(cls, job: Any, words: str, **more: object) -> "IllegalTransition":
        """`words` may speak of the %(job)s, of its %(state)s, and of what `more` names."""
        about = {"job": job, "state": job.get_state_display(), **more}
        return cls(words % about, state=job.state)


class LostRace(Refused):
    code = "lost_race"
    retryable = True


class AttemptEnded(Refused):
    code = "attempt_ended"


class ProjectArchived(Refused):
    code = "project_archived"


class SweepNotEnded(Refused):
    code = "sweep_not_ended"


class NotSubmitted(BadRequest):
    code = "not_submitted"


class KeyReused(Refused):
    status = 422
    code = "key_reused"


class NothingFree(Refused):
    code = "nothing_free"


class SecretInvalid(BadRequest):
    code = "secret_invalid"


class ChannelInvalid(BadRequest):
    code = "channel_invalid"


class SecretsLocked(Refused):
    code = "secrets_locked"


class NotYours(Refused):
    status = 403
    code = "forbidden"


class QueryWrong(BadRequest):
    """`position` and `length` in the response are the place in the query, in characters."""

    code = "query_wrong"

    def __init__(self, message: str, position: int, length: int = 1) -> None:
        super().__init__(message, position=position, length=max(1, length))

    @property
    def position(self) -> int:
        return int(self.facts["position"])

    @property
    def end(self) -> int:
        return self.position + int(self.facts["length"])


class TagsWrong(BadRequest):
    code = "tags_wrong"


class ViewInvalid(BadRequest):
    code = "view_invalid"
