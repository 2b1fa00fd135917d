"""Who was made up by manage.py demo_data."""

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class DemoUser(models.Model):
    """Marks a person of the demo. Their projects and GPU servers are marked by `is_demo`."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="demo"
    )

    class Meta:
        verbose_name = _("person of the demo")
        verbose_name_plural = _("people of the demo")

    def __str__(self) -> str:
        return str(self.user)
