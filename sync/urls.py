"""Addresses beneath /api/sync/, as the founding document has them."""

from django.urls import path

from sync import agent_views, views

urlpatterns = [
    path("delta/<slug:uid>/<path:name>", agent_views.DeltaView.as_view(), name="sync-delta"),
    path("full/<slug:uid>/<path:name>", agent_views.FullView.as_view(), name="sync-full"),
    path("checkpoint/<slug:uid>", agent_views.CheckpointView.as_view(), name="sync-checkpoint"),
    path("status/<slug:uid>", views.StatusView.as_view(), name="sync-status"),
    path("file/<slug:uid>/<path:name>", views.FileView.as_view(), name="sync-file"),
]
