"""GPUs that people have for a while, and all that are held."""

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from experiments import borrowing
from experiments.api.rights import BorrowersEnd
from experiments.deciding import changed_by
from experiments.models import (
    Borrow,
    GPUClaim,
    Job,
)
from experiments.serializers.borrows import BorrowSerializer, ClaimSerializer, NewBorrowSerializer
from labsite.clock import database_now
from people.auth import IsPerson


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
