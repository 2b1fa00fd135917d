from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class LabsiteConfig(AppConfig):
    name = "labsite"
    verbose_name = _("Lab")

    def ready(self) -> None:
        from labsite import checks, forks  # noqa: F401 - checks registers itself

        forks.close_connections_before_forks()
