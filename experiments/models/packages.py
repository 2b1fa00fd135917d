"""Which packages a run's environment had: thousands of runs have the same few hundred lines."""

import hashlib
from collections.abc import Sequence

from django.db import models
from django.utils.translation import gettext_lazy as _


class PackageSet(models.Model):
    """`name==version` of each package of one environment. Written once, and never changed."""

    sha256 = models.CharField(max_length=64, unique=True, editable=False)
    packages = models.JSONField(editable=False)

    class Meta:
        verbose_name = _("set of packages")
        verbose_name_plural = _("sets of packages")

    def __str__(self) -> str:
        return self.sha256[:12]

    @classmethod
    def of(cls, packages: Sequence[str]) -> "PackageSet | None":
        """The one that holds these, made if it is new; None: there are none."""
        if not packages:
            return None
        digest = hashlib.sha256("\n".join(packages).encode()).hexdigest()
        return cls.objects.get_or_create(sha256=digest, defaults={"packages": list(packages)})[0]
