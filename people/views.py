"""Who a token's person is, for programs."""

from importlib import metadata

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.authentication import SessionAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from people.auth import IsPerson, TokenAuthentication
from people.models import ApiToken
from people.roles import may_manage, may_submit, role_of
from people.serializers import MeSerializer


class MeView(APIView):
    """GET /api/me/: who one is here, by what one sent. Changes nothing."""

    authentication_classes = [SessionAuthentication, TokenAuthentication]
    permission_classes = [IsPerson]

    @extend_schema(responses=MeSerializer)
    def get(self, request: Request) -> Response:
        user = request.user
        token = request.auth if isinstance(request.auth, ApiToken) else None
        return Response(
            MeSerializer(
                {
                    "username": user.get_username(),
                    "name": user.get_full_name(),
                    "role": role_of(user).value,
                    "may_submit": may_submit(user),
                    "may_manage": may_manage(user),
                    "token": token,
                    "lab_name": settings.LAB_NAME,
                    "version": metadata.version("labsite"),
                    "submits_once": True,
                }
            ).data
        )
