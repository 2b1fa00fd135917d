"""People, what they sign in with, and what was done, in the desk's look.

Accounts are changed here by administrators; managers have their own page for them (/people/).
"""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy
from django_q import models as queue
from unfold.admin import ModelAdmin, StackedInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from devices.desk import Audited, Desk
from experiments.models import UnixAccount
from labsite.clock import database_now
from people.audit import facts_of, note, recorded
from people.models import ApiToken, AuditEntry, Invite

for model in (User, Group, queue.Failure, queue.OrmQ, queue.Schedule, queue.Success):
    if admin.site.is_registered(model):
        admin.site.unregister(model)


class UnixAccountInline(StackedInline):
    model = UnixAccount


@admin.register(User)
class UserDesk(Audited, UserAdmin, ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    inlines = (UnixAccountInline,)

    def get_inlines(self, request: HttpRequest, obj: User | None) -> tuple[type, ...]:
        """Not on the page that makes a user: it asks for a name and a password only."""
        return self.inlines if obj else ()

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if change:
            with recorded(request.user, obj, "change"):
                super().save_model(request, obj, form, change)
        else:
            super().save_model(request, obj, form, change)
            note(request.user, obj, "make", after=facts_of(obj))

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        before = UnixAccount.objects.filter(user=form.instance).first()
        told = facts_of(before) if before else {}
        super().save_formset(request, form, formset, change)
        if account := UnixAccount.objects.filter(user=form.instance).first() or before:
            note(request.user, account, "change", before=told, after=facts_of(account))

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        note(request.user, obj, "delete", before=facts_of(obj))
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for one in queryset:
            self.delete_model(request, one)

    def user_change_password(
        self, request: HttpRequest, id: str, form_url: str = ""
    ) -> HttpResponse:
        answer = super().user_change_password(request, id, form_url)
        if request.method == "POST" and answer.status_code == 302:
            note(request.user, User.objects.get(pk=id), "password")
        return answer


@admin.register(Group)
class GroupDesk(GroupAdmin, ModelAdmin):
    pass


@admin.register(ApiToken)
class ApiTokenDesk(Desk):
    """Keys of people's scripts. Each person makes their own, on the account's page."""

    list_display = (
        "user",
        "name",
        "ending",
        "created_at",
        "expires_at",
        "last_used_at",
        "revoked_at",
    )
    search_fields = ("user__username", "name")
    list_select_related = ("user",)
    hidden = ("sha256",)
    actions = ("revoke",)

    @admin.action(description=gettext_lazy("Revoke"))
    def revoke(self, request: HttpRequest, tokens: Any) -> None:
        now = database_now()
        self.each(request, tokens, lambda token: token.revoke(now), "revoke")


@admin.register(Invite)
class InviteDesk(Desk):
    """Links that let people in; made on the page of people."""

    list_display = ("__str__", "role", "uses_left", "expires_at", "created_by")
    list_select_related = ("created_by",)
    hidden = ("code_sha256",)
    actions = ("end",)

    @admin.action(description=gettext_lazy("Let nobody in by it any more"))
    def end(self, request: HttpRequest, invites: Any) -> None:
        self.each(request, invites, Invite.end, "end")


@admin.register(AuditEntry)
class AuditEntryDesk(Desk):
    """What managers did. Looked at only."""

    list_display = ("at", "by_name", "verb", "kind", "name", "door")
    list_filter = ("door", "kind", "verb")
    search_fields = ("by_name", "name", "verb")
    date_hierarchy = "at"

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
