"""Addresses beneath /api/ that are about projects, jobs and attempts."""

from django.urls import include, path, re_path
from rest_framework.routers import SimpleRouter

from experiments import agent_views
from experiments.api import (
    borrows,
    channels,
    devices,
    imports,
    jobs,
    projects,
    secrets,
    sweeps,
    unixaccounts,
)

_PROJECT = f"(?P<project>{projects.ProjectViewSet.lookup_value_regex})"
router = SimpleRouter()
router.register("devices", devices.DevicesViewSet, basename="device")
router.register("projects", projects.ProjectViewSet, basename="project")
router.register("jobs", jobs.JobViewSet, basename="job")
router.register("borrows", borrows.BorrowViewSet, basename="borrow")
router.register("claims", borrows.ClaimViewSet, basename="claim")
router.register("channels", channels.ChannelViewSet, basename="channel")
router.register("sweeps", sweeps.SweepViewSet, basename="sweep")
router.register("unix-accounts", unixaccounts.UnixAccountViewSet, basename="unix-account")

urlpatterns = [
    path("imports/", imports.ImportView.as_view(), name="imports"),
    path("imports/preview/", imports.ForeseeView.as_view(), name="imports-preview"),
    path("secrets/", secrets.OwnSecretsView.as_view(), name="secrets"),
    path("secrets/<str:name>/", secrets.OwnSecretView.as_view(), name="secret"),
    re_path(
        rf"^projects/{_PROJECT}/secrets/$",
        secrets.ProjectSecretsView.as_view(),
        name="project-secrets",
    ),
    re_path(
        rf"^projects/{_PROJECT}/secrets/(?P<name>[^/]+)/$",
        secrets.ProjectSecretView.as_view(),
        name="project-secret",
    ),
    path("agent/poll", agent_views.PollView.as_view(), name="poll"),
    path(
        "agent/attempts/<uuid:attempt_id>/events",
        agent_views.AttemptEventView.as_view(),
        name="attempt-events",
    ),
    path(
        "agent/attempts/<uuid:attempt_id>/config",
        agent_views.AttemptConfigView.as_view(),
        name="attempt-config",
    ),
    path(
        "agent/attempts/<uuid:attempt_id>/secrets",
        agent_views.AttemptSecretsView.as_view(),
        name="attempt-secrets",
    ),
    path("", include(router.urls)),
]
