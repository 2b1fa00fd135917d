"""The key of a request to queue something, which is then done once however often it arrives."""

from django.http import QueryDict
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from experiments.models import Asked

ONCE = OpenApiParameter(
    "Idempotency-Key", str, OpenApiParameter.HEADER,
    description="Any word of yours, new for each submit. The same request with the same key, "
    "within a week, queues nothing more and gets the first one's answer.",
)  # fmt: skip


def asked_by(request: Request) -> Asked | None:
    """Raises: NotSubmitted: the key cannot be one."""
    key = request.headers.get("Idempotency-Key")
    data = request.data
    said = dict(data.lists()) if isinstance(data, QueryDict) else data  # as JSON, a name's last
    return Asked.of(request.user, key, request.path, said)
