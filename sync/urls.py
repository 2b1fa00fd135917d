"""Addresses beneath /api/sync/, as the founding document has them."""

from django.urls import path, re_path

from sync import agent_views, views
from sync.imports import views as imports_views

_NAME = "(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,127})"  # of a project

urlpatterns = [
    path("delta/<slug:uid>/<path:name>", agent_views.DeltaView.as_view(), name="sync-delta"),
    path("full/<slug:uid>/<path:name>", agent_views.FullView.as_view(), name="sync-full"),
    path("import/<slug:uid>/<path:name>", imports_views.FileView.as_view(), name="sync-import"),
    path("batch/<slug:uid>", agent_views.BatchView.as_view(), name="sync-batch"),
    path("checkpoint/<slug:uid>", agent_views.CheckpointView.as_view(), name="sync-checkpoint"),
    path("status/<slug:uid>", views.StatusView.as_view(), name="sync-status"),
    re_path(rf"^projects/{_NAME}/free$", views.FreeView.as_view(), name="sync-free"),
    re_path(rf"^projects/{_NAME}/trash$", views.TrashView.as_view(), name="sync-trash"),
    re_path(
        r"^trash/(?P<pk>[0-9]{1,18})/(?P<verb>restore|empty)$",
        views.TrashVerbView.as_view(),
        name="sync-trash-verb",
    ),
    path("disk", views.DiskView.as_view(), name="sync-disk"),
    path("file/<slug:uid>/<path:name>", views.FileView.as_view(), name="sync-file"),
]
