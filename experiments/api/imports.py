"""Runs that people bring in from files which they already have; `lab import` asks these.

The files follow, each for itself: /api/sync/import/<uid>/<name>.
"""

from drf_spectacular.utils import extend_schema
from rest_framework.authentication import SessionAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from experiments import imports
from experiments.importserializers import (
    ForeseenSerializer,
    ImportSerializer,
    ImportsSerializer,
    TakenSerializer,
)
from people.auth import MayWrite, TokenAuthentication


class OfPeople(APIView):
    authentication_classes = [SessionAuthentication, TokenAuthentication]
    permission_classes = [MayWrite]


class ImportView(OfPeople):
    """POST imports/: a run that ended before, from its files."""

    @extend_schema(
        request=ImportSerializer, responses={200: TakenSerializer, 201: TakenSerializer}
    )
    def post(self, request: Request) -> Response:
        """201: it is made. 200: it was made of these files before (`there`), and is up to date; or
        it was `deleted`, and is left so unless `again` is said."""
        said = ImportSerializer(data=request.data)
        said.is_valid(raise_exception=True)
        again = said.validated_data["again"]
        taken = imports.take_in(said.found, said.facts, by=request.user, again=again)
        status = 201 if taken.status == imports.NEW else 200
        return Response(TakenSerializer(taken).data, status=status)


class ForeseeView(OfPeople):
    """POST imports/preview/: what would become of runs; nothing is made."""

    @extend_schema(request=ImportsSerializer, responses=ForeseenSerializer(many=True))
    def post(self, request: Request) -> Response:
        said = ImportsSerializer(data=request.data)
        said.is_valid(raise_exception=True)
        found = imports.foresee(said.found, by=request.user)
        return Response(ForeseenSerializer(found, many=True).data)
