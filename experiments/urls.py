"""Addresses beneath /api/ that are about projects, jobs and attempts."""

from django.urls import include, path, re_path
from rest_framework.routers import SimpleRouter

from experiments import agent_views, secret_api, views

_PROJECT = f"(?P<project>{views.ProjectViewSet.lookup_value_regex})"
router = SimpleRouter()
router.register("projects", views.ProjectViewSet, basename="project")
router.register("jobs", views.JobViewSet, basename="job")
router.register("borrows", views.BorrowViewSet, basename="borrow")
router.register("claims", views.ClaimViewSet, basename="claim")
router.register("sweeps", views.SweepViewSet, basename="sweep")
router.register("unix-accounts", views.UnixAccountViewSet, basename="unix-account")

urlpatterns = [
    path("secrets/", secret_api.OwnSecretsView.as_view(), name="secrets"),
    path("secrets/<str:name>/", secret_api.OwnSecretView.as_view(), name="secret"),
    re_path(
        rf"^projects/{_PROJECT}/secrets/$",
        secret_api.ProjectSecretsView.as_view(),
        name="project-secrets",
    ),
    re_path(
        rf"^projects/{_PROJECT}/secrets/(?P<name>[^/]+)/$",
        secret_api.ProjectSecretView.as_view(),
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
