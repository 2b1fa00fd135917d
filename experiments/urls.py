"""Addresses beneath /api/ that are about projects, jobs and attempts."""

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from experiments import agent_views, views

router = SimpleRouter()
router.register("projects", views.ProjectViewSet, basename="project")
router.register("jobs", views.JobViewSet, basename="job")
router.register("sweeps", views.SweepViewSet, basename="sweep")
router.register("unix-accounts", views.UnixAccountViewSet, basename="unix-account")

urlpatterns = [
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
