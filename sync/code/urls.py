"""Addresses beneath /api/ that are about the code of jobs."""

from django.urls import path

from sync.code import agent_views, views

urlpatterns = [
    path("code/", views.CodeView.as_view(), name="code"),
    path("code/files", views.FilesView.as_view(), name="code-files"),
    path("code/runs/<slug:uid>.tar", views.ArchiveView.as_view(), name="code-archive"),
    path(
        "agent/attempts/<uuid:attempt_id>/code",
        agent_views.AttemptCodeView.as_view(),
        name="attempt-code",
    ),
    path(
        "agent/attempts/<uuid:attempt_id>/code/files",
        agent_views.AttemptFilesView.as_view(),
        name="attempt-code-files",
    ),
]
