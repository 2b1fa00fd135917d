"""People and their tokens, in the desk's look."""

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django_q import models as queue
from rest_framework.authtoken.models import TokenProxy
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

for model in (User, Group, TokenProxy, queue.Failure, queue.OrmQ, queue.Schedule, queue.Success):
    if admin.site.is_registered(model):
        admin.site.unregister(model)


@admin.register(User)
class UserDesk(UserAdmin, ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class GroupDesk(GroupAdmin, ModelAdmin):
    pass


@admin.register(TokenProxy)
class TokenDesk(ModelAdmin):
    """Tokens for scripts. A key is shown once, when it is made."""

    list_display = ("user", "created")
    fields = ("user",)

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def response_add(self, request: HttpRequest, obj: TokenProxy, *args, **kwargs):
        response = super().response_add(request, obj, *args, **kwargs)
        words = _("The token of %(user)s, shown this once: %(key)s")
        self.message_user(request, words % {"user": obj.user, "key": obj.key}, messages.WARNING)
        return response
