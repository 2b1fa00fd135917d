"""Who this server is, and how secrets are kept: by their digest."""

import hashlib
import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


def digest(secret: str) -> str:
    """Hex SHA-256: all that the server keeps of a token or a code."""
    return hashlib.sha256(secret.encode()).hexdigest()


class ServerIdentity(models.Model):
    """Who this database is. One row; an agent stops nothing for a server it does not know."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    server_id = models.CharField(max_length=36, default=uuid.uuid4, editable=False)

    class Meta:
        verbose_name = _("server identity")
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_server_identity")]

    def __str__(self) -> str:
        return self.server_id

    @classmethod
    def current(cls) -> str:
        return str(cls.objects.get_or_create(id=1)[0].server_id)
