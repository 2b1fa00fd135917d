"""What this app refuses.

Refused
├── EnrollmentRefused    the code is unknown, used up, expired, or for another device
├── TooManyTries         too many wrong codes from one address
├── DuplicateAgent       another living agent holds this device
└── Unauthorized         (labsite.errors) no token, or a revoked one
"""

from labsite.errors import Refused


class EnrollmentRefused(Refused):
    status = 403
    code = "enrollment_refused"


class TooManyTries(Refused):
    status = 429
    code = "too_many_tries"
    retryable = True


class DuplicateAgent(Refused):
    code = "duplicate_agent"
    retryable = True
