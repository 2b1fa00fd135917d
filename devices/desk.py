"""The lab manager's desk: one base class for every table of the admin.

Rows are shown; nothing is written by hand but what a person sets (`by_hand`). Whatever has a
state changes by an action, which is the same verb that pages and API use, and a refusal is a
sentence. Each action and each change leaves an entry in the audit log (people.audit).
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import ngettext, pgettext_lazy
from unfold.admin import ModelAdmin, TabularInline

from labsite.errors import Refused
from people.audit import recorded
from people.roles import may_manage


def name_fields(model: type[models.Model]) -> None:
    """Fields are called in the reader's language, also those that a model does not name.
    Migrations know nothing of it: they take a name as it was given."""
    for field in model._meta.fields:
        if isinstance(field.verbose_name, str):
            field.verbose_name = pgettext_lazy("field", field.verbose_name)


class Rows(TabularInline):
    """What belongs to a row, beneath it; looked at only."""

    extra = 0
    can_delete = False

    def __init__(self, parent_model: type[models.Model], admin_site: AdminSite) -> None:
        super().__init__(parent_model, admin_site)
        name_fields(self.model)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_manage(request.user)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class Audited:
    """The history of a row is what the audit log has of it; Django's own is not kept beside it."""

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        of_row = urlencode({"kind": self.model._meta.label_lower, "key": object_id})
        return redirect(f"{reverse('admin:people_auditentry_changelist')}?{of_row}")

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> None:
        pass

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None:
        pass

    def log_deletions(self, request: HttpRequest, queryset: Any) -> None:
        pass


class Desk(Audited, ModelAdmin):
    #: The fields that a person may set; all others are read-only.
    by_hand: tuple[str, ...] = ()
    #: Never shown: digests of secrets, and what is only for programs.
    hidden: tuple[str, ...] = ()
    list_per_page = 50
    show_full_result_count = False
    compressed_fields = True

    def __init__(self, model: type[models.Model], admin_site: AdminSite) -> None:
        super().__init__(model, admin_site)
        name_fields(model)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        shown = [field.name for field in self.model._meta.concrete_fields]
        return [name for name in shown if name not in self.by_hand and name not in self.hidden]

    def get_exclude(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self.hidden

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may_manage(request.user)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_manage(request.user)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_manage(request.user)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Only what was changed: the row's other columns are written by agents meanwhile."""
        if not change:
            super().save_model(request, obj, form, change)
        elif form.changed_data:
            values = {name: getattr(obj, name) for name in form.changed_data}
            with recorded(request.user, obj, "change"):
                self.model.objects.filter(pk=obj.pk).update(**values)

    def each(
        self,
        request: HttpRequest,
        rows: models.QuerySet[Any],
        verb: Callable[[Any], object],
        name: str,
    ) -> None:
        """Do `verb` to each row, record it, and say to how many; a refusal is told as it is."""
        done = 0
        for row in rows:
            try:
                with recorded(request.user, row, name):
                    verb(row)
            except Refused as refused:
                self.message_user(request, str(refused), messages.ERROR)
            else:
                done += 1
        if done:
            self.done(request, done)

    def done(self, request: HttpRequest, count: int) -> None:
        words = ngettext("Done for %(n)d.", "Done for %(n)d.", count) % {"n": count}
        self.message_user(request, words, messages.SUCCESS)
