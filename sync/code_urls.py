"""Addresses beneath /api/ that are about the code of jobs."""

from django.urls import path

from sync import code_views

urlpatterns = [
    path("code/", code_views.CodeView.as_view(), name="code"),
    path("code/files", code_views.FilesView.as_view(), name="code-files"),
    path("code/runs/<slug:uid>.tar", code_views.ArchiveView.as_view(), name="code-archive"),
    path(
        "agent/attempts/<uuid:attempt_id>/code",
        code_views.AttemptCodeView.as_view(),
        name="attempt-code",
    ),
    path(
        "agent/attempts/<uuid:attempt_id>/code/files",
        code_views.AttemptFilesView.as_view(),
        name="attempt-code-files",
    ),
]
