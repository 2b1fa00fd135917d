"""Projects and jobs for people."""

from collections.abc import Callable

import django_filters
from django.db import transaction
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response

from devices.views import ManagersChange as OnlyManagersChange
from experiments import borrowing, configfiles, moving, reruns, submission, sweeps
from experiments.deciding import changed_by
from experiments.models import (
    Borrow,
    GPUClaim,
    Job,
    JobEvent,
    Project,
    Sweep,
    UnixAccount,
    counts_of,
)
from experiments.serializers import (
    BorrowSerializer,
    ClaimSerializer,
    EventSerializer,
    JobDetailSerializer,
    JobSerializer,
    MoveSerializer,
    NewBorrowSerializer,
    PrioritySerializer,
    ProjectSerializer,
    RequeueSerializer,
    RerunSerializer,
    SubmitSerializer,
    SweepSerializer,
    UnixAccountSerializer,
)
from experiments.states import JobState
from experiments.table.columns import known_columns, ref_of
from experiments.table.fields import Reader
from experiments.table.match import match
from experiments.table.order import ordered
from labsite.clock import database_now
from labsite.errors import BadRequest
from people.audit import facts_of, note, recorded
from people.auth import IsPerson, MayWrite


class OwnersChange(MayWrite):
    """A job is changed by who submitted it, and by managers."""

    message = _("This run is somebody else's; its owner or a manager may do this.")

    def has_object_permission(self, request: Request, view, job: Job) -> bool:
        return request.method in SAFE_METHODS or job.may_be_changed_by(request.user)


class LeadsChange(MayWrite):
    message = _("Only its maker or a manager may change this.")

    def has_object_permission(self, request: Request, view, project: Project) -> bool:
        return request.method in SAFE_METHODS or project.may_be_changed_by(request.user)


class ProjectFilter(django_filters.FilterSet):
    archived = django_filters.BooleanFilter("archived_at", lookup_expr="isnull", exclude=True)


class ProjectViewSet(
    mixins.CreateModelMixin,
    mixins.RetrieveModelMixin,
    mixins.UpdateModelMixin,
    mixins.ListModelMixin,
    viewsets.GenericViewSet,
):
    """Bodies of work. A project is also made by the first job that names it."""

    queryset = Project.objects.select_related("created_by")
    serializer_class = ProjectSerializer
    permission_classes = [LeadsChange]
    lookup_field = "name"
    lookup_value_regex = r"[A-Za-z0-9][A-Za-z0-9._-]*"

    filterset_class = ProjectFilter

    def get_queryset(self):
        projects = super().get_queryset().visible_to(self.request.user)
        hidden = self.action == "list" and "archived" not in self.request.query_params
        return projects.listed() if hidden else projects

    def perform_create(self, serializer: ProjectSerializer) -> None:
        serializer.save(created_by=self.request.user)

    def perform_update(self, serializer: ProjectSerializer) -> None:
        serializer.instance.check_writable()
        with recorded(self.request.user, serializer.instance, "change"):
            serializer.save()

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def archive(self, request: Request, name: str) -> Response:
        """Make it read-only, and leave it out of lists."""
        project = self.get_object()
        with recorded(request.user, project, "archive"):
            project.archive(database_now())
        return Response(self.get_serializer(project).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def unarchive(self, request: Request, name: str) -> Response:
        project = self.get_object()
        with recorded(request.user, project, "unarchive"):
            project.unarchive()
        return Response(self.get_serializer(project).data)


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


class JobFilter(django_filters.FilterSet):
    project = django_filters.CharFilter("project__name")
    user = django_filters.CharFilter("user__username")
    state = django_filters.MultipleChoiceFilter(choices=JobState.choices)
    sweep = django_filters.NumberFilter("sweep_id")
    ref = django_filters.CharFilter(method="named")
    archived = django_filters.BooleanFilter(
        "project__archived_at", lookup_expr="isnull", exclude=True
    )

    class Meta:
        model = Job
        fields = ["project", "user", "state", "sweep"]

    def named(self, jobs, name: str, ref: str):
        return jobs.named(ref)


ASKED = [
    OpenApiParameter(
        "ref", str, description="What people call a run: the beginning of its uid, "
        "project/run_003, or run_003. Of archived projects too.",
    ),
    OpenApiParameter("q", str, description="As in the tables: lr<0.01 state:failed tag:baseline."),
    OpenApiParameter(
        "ordering", str, description="A column, - in front: downwards. submitted, key:lr, "
        "last:val_loss, best:val_loss, min:val_loss, max:val_loss.",
    ),
]  # fmt: skip


@extend_schema_view(list=extend_schema(parameters=ASKED))
class JobViewSet(
    mixins.DestroyModelMixin,
    mixins.RetrieveModelMixin,
    mixins.UpdateModelMixin,
    mixins.ListModelMixin,
    viewsets.GenericViewSet,
):
    """Jobs: queue one, look, and wish for its end. Its state changes by the actions only."""

    queryset = Job.objects.present().select_related("project", "user", "parent", "snapshot")
    permission_classes = [OwnersChange]
    filterset_class = JobFilter
    lookup_field = "uid"
    lookup_value_regex = r"[0-9]{8}_[0-9a-f]+"

    def get_queryset(self):
        jobs = super().get_queryset().visible_to(self.request.user)
        if self.action != "list":
            return jobs.prefetch_related("attempts__device", "attempts__packages")
        jobs = jobs.with_device()
        asked = {"project", "archived", "ref"} & set(self.request.query_params)
        return jobs if asked else jobs.listed()

    def filter_queryset(self, queryset):
        jobs = super().filter_queryset(queryset)
        text = self.request.query_params.get("q", "") if self.action == "list" else ""
        return jobs.filter(match(text, self._reader()).condition) if text else jobs

    def paginate_queryset(self, queryset):
        """By a column the page's rows alone are read: a database would sort them whole."""
        word = self.request.query_params.get("ordering", "")
        if self.action != "list" or not word:
            return super().paginate_queryset(queryset)
        pks = super().paginate_queryset(self._ordered(queryset, word))
        rows = queryset.in_bulk(pks)
        return [rows[pk] for pk in pks if pk in rows]

    def _ordered(self, jobs, word: str) -> list[int]:
        ref = ref_of(word.removeprefix("-"))
        if ref is None:
            raise BadRequest(_("“%(word)s” is no column to order by.") % {"word": word[:80]})
        known = known_columns([ref.name], self.request.user, None)
        return ordered(jobs, ref, self._reader(), known, descending=word.startswith("-"))

    def _reader(self) -> Reader:
        return Reader(self.request.user, database_now())

    def get_serializer_class(self):
        return JobSerializer if self.action == "list" else JobDetailSerializer

    @extend_schema(request=SubmitSerializer, responses={201: JobDetailSerializer})
    def create(self, request: Request) -> Response:
        """Queue a job from a YAML, a file of the config folder, or just a command."""
        wish = SubmitSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        path = wish.validated_data.get("config_path")
        text = configfiles.read(path) if path else wish.validated_data.get("config")
        job = submission.submit(text, wish.given(), by=request.user)
        return Response(JobDetailSerializer(job).data, status=201)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, uid: str) -> Response:
        """End it: at once if it waits, else when its process has stopped."""
        job = self.get_object()
        with changed_by(request.user, job, "cancel"):
            job.cancel(by=request.user)
        return self._shown(job)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def requeue(self, request: Request, uid: str) -> Response:
        """Stop what runs and put it back into the queue, at its old place."""
        job = self.get_object()
        with changed_by(request.user, job, "requeue"):
            job.requeue(by=request.user)
        return self._shown(job)

    @extend_schema(request=RequeueSerializer)
    @action(detail=True, methods=["post"])
    def give_up(self, request: Request, uid: str) -> Response:
        """Give up the try on a GPU server that cannot be reached."""
        job = self.get_object()
        wish = RequeueSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        with changed_by(request.user, job, "give_up"):
            job.give_up(requeue=wish.validated_data["requeue"], by=request.user)
        return self._shown(job)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def hold(self, request: Request, uid: str) -> Response:
        """Keep it queued, whatever is free."""
        job = self.get_object()
        with changed_by(request.user, job, "hold"):
            job.hold(True, by=request.user)
        return self._shown(job)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def unhold(self, request: Request, uid: str) -> Response:
        job = self.get_object()
        with changed_by(request.user, job, "unhold"):
            job.hold(False, by=request.user)
        return self._shown(job)

    @extend_schema(request=PrioritySerializer)
    @action(detail=True, methods=["post"])
    def priority(self, request: Request, uid: str) -> Response:
        job = self.get_object()
        wish = PrioritySerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        with changed_by(request.user, job, "priority"):
            job.set_priority(wish.level(), by=request.user)
        return self._shown(job)

    @extend_schema(request=MoveSerializer)
    @action(detail=True, methods=["post"])
    def move(self, request: Request, uid: str) -> Response:
        """Its place in the queue: before or after another that waits, or one up or down.

        Submitters order what is theirs; a manager lays any run before others, which holds until
        `{"to": "turn"}` gives it back to fair share.
        """
        job = self.get_object()
        wish = MoveSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        moving.move(job, wish.move(), by=request.user)
        return self._shown(job)

    @extend_schema(request=RerunSerializer, responses={201: JobDetailSerializer})
    @action(detail=True, methods=["post"])
    def rerun(self, request: Request, uid: str) -> Response:
        """Queue the same once more, as a new job whose `parent` this is; with `set`, with other
        values of config keys or arguments."""
        return self._again(request, uid, resume=False)

    @extend_schema(request=RerunSerializer, responses={201: JobDetailSerializer})
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, uid: str) -> Response:
        """Queue a new job that goes on from the newest checkpoint of this one, which has ended."""
        return self._again(request, uid, resume=True)

    def _again(self, request: Request, uid: str, *, resume: bool) -> Response:
        job = get_object_or_404(self.get_queryset(), uid=uid)  # anybody's
        wish = RerunSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        values = wish.validated_data.get("set", {})
        spec = reruns.changed(submission.spec_of(job), values) if values else None
        again = submission.rerun(job, by=request.user, resume=resume, spec=spec)
        return Response(JobDetailSerializer(again).data, status=201)

    def perform_destroy(self, job: Job) -> None:
        """Leave a tombstone; its files can be restored for a while."""
        with changed_by(self.request.user, job, "delete"):
            job.delete_run(database_now(), by=self.request.user)

    def perform_update(self, serializer: JobSerializer) -> None:
        with changed_by(self.request.user, serializer.instance, "change"):
            serializer.save()

    @extend_schema(responses=EventSerializer(many=True))
    @action(detail=True, methods=["get"])
    def events(self, request: Request, uid: str) -> Response:
        """What happened to it, in order."""
        job = self.get_object()
        rows = JobEvent.objects.filter(job=job).select_related("by", "attempt")
        return self.get_paginated_response(
            EventSerializer(self.paginate_queryset(rows), many=True).data
        )

    def _shown(self, job: Job) -> Response:
        fresh = self.get_queryset().get(pk=job.pk)
        return Response(JobDetailSerializer(fresh).data)


class BorrowersEnd(MayWrite):
    message = _("Somebody else borrowed it; they or a manager may return it.")

    def has_object_permission(self, request: Request, view, borrow: Borrow) -> bool:
        return request.method in SAFE_METHODS or borrow.may_be_ended_by(request.user)


class BorrowViewSet(mixins.RetrieveModelMixin, mixins.ListModelMixin, viewsets.GenericViewSet):
    """GPUs that people have for a while without a run. The list: those that they have now."""

    queryset = Borrow.objects.select_related("user", "device")
    serializer_class = BorrowSerializer
    permission_classes = [BorrowersEnd]
    lookup_value_regex = r"[0-9]{1,18}"

    def get_queryset(self):
        borrows = super().get_queryset()
        return borrows.open() if self.action == "list" else borrows

    @extend_schema(request=NewBorrowSerializer, responses={201: BorrowSerializer})
    def create(self, request: Request) -> Response:
        """Take GPUs of one server that nobody has. They come back by themselves."""
        wish = NewBorrowSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        said = wish.validated_data
        made = borrowing.borrow(
            request.user,
            gpus=said["gpus"],
            time=said["time"],
            host_id=said.get("device", ""),
            now=database_now(),
        )
        return Response(self.get_serializer(made).data, status=201)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def end(self, request: Request, pk: str) -> Response:
        """Give them back before their time."""
        borrow = self.get_object()
        with changed_by(request.user, borrow, "end"):
            borrow.end(database_now())
        return Response(self.get_serializer(self.get_object()).data)


class ClaimViewSet(mixins.ListModelMixin, viewsets.GenericViewSet):
    """The GPUs that are held, and by whom. Of a run that one does not see, only whose it is."""

    queryset = GPUClaim.objects.select_related(
        "gpu__device", "attempt__job__project", "attempt__job__user", "borrow__user"
    ).order_by("gpu")
    serializer_class = ClaimSerializer
    permission_classes = [IsPerson]

    def get_serializer_context(self):
        seen = Job.objects.visible_to(self.request.user).filter(attempts__gpu_claims__isnull=False)
        return {**super().get_serializer_context(), "seen": set(seen.values_list("pk", flat=True))}


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

    @extend_schema(request=SubmitSerializer, responses={201: SweepSerializer})
    def create(self, request: Request) -> Response:
        """Queue all runs that a config's `lab.sweep:` (or the field `sweep`) names, or none.

        `added_keys` are those that the file did not name: slips of the hand, perhaps.
        """
        wish = SubmitSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        path = wish.validated_data.get("config_path")
        text = configfiles.read(path) if path else wish.validated_data.get("config")
        sweep = sweeps.submit(text, wish.given(), by=request.user)
        added = sweeps.added_keys(sweep.config, sweep.keys)
        return Response({**self.get_serializer(sweep).data, "added_keys": added}, status=201)

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
        return self._done("cancel", lambda sweep: sweep.cancel(by=request.user))

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
        fresh = self.get_object()
        return Response({**self.get_serializer(fresh).data, "concerned": concerned})
