"""Addresses beneath /api/sync/."""

urlpatterns: list = []
