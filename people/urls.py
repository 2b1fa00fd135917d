"""Addresses beneath /api/ that are about oneself."""

from django.urls import path

from people import views

urlpatterns = [path("me/", views.MeView.as_view(), name="me")]
