"""Sweeps for people."""

from collections.abc import Callable

import django_filters
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from experiments import configfiles, discreet, sweeps
from experiments.api.asking import ONCE, asked_by
from experiments.api.rights import OwnersChange
from experiments.deciding import changed_by
from experiments.models import (
    Sweep,
    counts_of,
)
from experiments.serializers.sweeps import SweepSerializer
from experiments.serializers.wishes import PrioritySerializer, SubmitSerializer
from labsite.clock import database_now


class SweepFilter(django_filters.FilterSet):
    project = django_filters.CharFilter("project__name")
    user = django_filters.CharFilter("user__username")


class SweepViewSet(
    mixins.DestroyModelMixin,
    mixins.RetrieveModelMixin,
    mixins.UpdateModelMixin,
    mixins.ListModelMixin,
    viewsets.GenericViewSet,
):
    """Sweeps: many runs from one config. Their runs are at /api/jobs/?sweep=…"""

    queryset = Sweep.objects.present().select_related("project", "user")
    serializer_class = SweepSerializer
    permission_classes = [OwnersChange]
    filterset_class = SweepFilter
    lookup_value_regex = r"[0-9]{1,18}"

    def get_queryset(self):
        return super().get_queryset().visible_to(self.request.user)

    def get_serializer(self, *args, **kwargs) -> SweepSerializer:
        """With what it counts, in one query for all that are shown."""
        shown = args[0] if args else []
        sweeps_shown = shown if kwargs.get("many") else [shown] if shown else []
        kwargs["context"] = {**self.get_serializer_context(), "counts": counts_of(sweeps_shown)}
        return SweepSerializer(*args, **kwargs)

    @extend_schema(request=SubmitSerializer, responses={201: SweepSerializer}, parameters=[ONCE])
    def create(self, request: Request) -> Response:
        """Queue all runs that a config's `lab.sweep:` (or the field `sweep`) names, or none.

        `added_keys` are those that the file did not name: slips of the hand, perhaps; `warnings`:
        what should be otherwise, though it runs.
        """
        asked = asked_by(request)
        if asked and (before := asked.before()):
            return self._made(get_object_or_404(self.get_queryset(), pk=before.pk))
        wish = SubmitSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        path = wish.validated_data.get("config_path")
        text = configfiles.read(path) if path else wish.validated_data.get("config")
        return self._made(sweeps.submit(text, wish.given(), by=request.user, asked=asked))

    def _made(self, sweep: Sweep) -> Response:
        added = sweeps.added_keys(sweep.config, sweep.keys)
        keys = sweep.jobs.order_by("pk").values_list("keys", flat=True).first()
        told = {"added_keys": added, "warnings": discreet.warnings_of(keys or {})}
        return Response({**self.get_serializer(sweep).data, **told}, status=201)

    def perform_update(self, serializer: SweepSerializer) -> None:
        """Its name, and how many may run at a time."""
        said = serializer.validated_data
        with changed_by(self.request.user, serializer.instance, "change"):
            if "name" in said:
                serializer.instance.rename(said["name"])
            if "max_running" in said:
                serializer.instance.set_max_running(said["max_running"])

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """End all that waits at once, and what runs when its process has stopped."""
        sweep = self.get_object()
        told = changed_by(request.user, sweep, "cancel")
        return self._concerned(sweep.cancel(by=request.user, told=told))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def rerun_failed(self, request: Request, pk: str) -> Response:
        """Queue those that failed once more, as runs of their own."""
        return self._done("rerun_failed", lambda sweep: sweep.rerun_failed(by=request.user))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def hold(self, request: Request, pk: str) -> Response:
        """Keep all that waits queued, whatever is free."""
        return self._done("hold", lambda sweep: sweep.hold(True, by=request.user))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def unhold(self, request: Request, pk: str) -> Response:
        return self._done("unhold", lambda sweep: sweep.hold(False, by=request.user))

    @extend_schema(request=PrioritySerializer)
    @action(detail=True, methods=["post"])
    def priority(self, request: Request, pk: str) -> Response:
        """Of all of its runs that wait."""
        self.get_object()  # who may not is told so before what is wrong with the wish
        wish = PrioritySerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        level = wish.level()
        return self._done("priority", lambda sweep: sweep.set_priority(level, by=request.user))

    def perform_destroy(self, sweep: Sweep) -> None:
        """Leave a tombstone for each of its runs; they can be restored for a while."""
        with changed_by(self.request.user, sweep, "delete"):
            sweep.delete_runs(database_now(), by=self.request.user)

    def _done(self, verb: str, act: Callable[[Sweep], int]) -> Response:
        """Do it, and answer with the sweep as it is then and how many runs that concerned."""
        sweep = self.get_object()
        with changed_by(self.request.user, sweep, verb):
            concerned = act(sweep)
        return self._concerned(concerned)

    def _concerned(self, concerned: int) -> Response:
        fresh = self.get_object()
        return Response({**self.get_serializer(fresh).data, "concerned": concerned})
