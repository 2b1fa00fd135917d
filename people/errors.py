"""What this app refuses.

Refused
├── NotAllowed      the person's role, or their place in the project, does not allow it
├── WrongInvite     the link is unknown, used up or expired
└── NotDone         what a manager asks for about an account cannot be done to it
"""

from labsite.errors import Refused


class NotAllowed(Refused):
    status = 403
    code = "forbidden"


class WrongInvite(Refused):
    status = 403
    code = "wrong_invite"


class NotDone(Refused):
    code = "not_done"
