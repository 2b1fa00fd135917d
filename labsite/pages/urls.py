"""Addresses of the pages for people."""

urlpatterns: list = []
