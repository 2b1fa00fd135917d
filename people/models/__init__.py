"""Who uses the lab: how each wants the pages, what they may sign in with, what managers did."""

from people.models.audit import AuditEntry, Door
from people.models.invite import Invite
from people.models.profile import Profile
from people.models.token import ApiToken

__all__ = ["ApiToken", "AuditEntry", "Door", "Invite", "Profile"]
