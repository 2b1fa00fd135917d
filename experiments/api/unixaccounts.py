"""Who runs as which Unix user, for managers."""

from django.db import transaction
from rest_framework import viewsets

from devices.views import ManagersChange as OnlyManagersChange
from experiments.models import (
    UnixAccount,
)
from experiments.serializers.unixaccounts import UnixAccountSerializer
from people.audit import facts_of, note, recorded


class UnixAccountViewSet(viewsets.ModelViewSet):
    """Who runs as which Unix user on GPU servers that run jobs as their submitters."""

    queryset = UnixAccount.objects.select_related("user")
    serializer_class = UnixAccountSerializer
    permission_classes = [OnlyManagersChange]
    lookup_field = "user__username"
    lookup_url_kwarg = "username"
    lookup_value_regex = r"[\w.@+-]+"

    def perform_create(self, serializer: UnixAccountSerializer) -> None:
        with transaction.atomic():
            made = serializer.save()
            note(self.request.user, made, "make", after=facts_of(made))

    def perform_update(self, serializer: UnixAccountSerializer) -> None:
        with recorded(self.request.user, serializer.instance, "change"):
            serializer.save()

    def perform_destroy(self, account: UnixAccount) -> None:
        with transaction.atomic():
            note(self.request.user, account, "delete", before=facts_of(account))
            account.delete()
