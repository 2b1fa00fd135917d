"""What this app refuses.

Refused
├── IllegalTransition   the job's state does not allow it; asking again will not help
├── LostRace            it did when we looked; somebody else was first
├── AttemptEnded        a report of an attempt that has ended: whatever it did, it is settled
└── NotSubmitted        a job that cannot be queued as it stands
"""

from labsite.errors import BadRequest, Refused


class IllegalTransition(Refused):
    code = "illegal_transition"


class LostRace(Refused):
    code = "lost_race"
    retryable = True


class AttemptEnded(Refused):
    code = "attempt_ended"


class NotSubmitted(BadRequest):
    code = "not_submitted"
