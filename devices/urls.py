"""Addresses beneath /api/ that are about devices."""

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from devices import agent_views, views

router = SimpleRouter()
router.register("gpus", views.GPUViewSet, basename="gpu")
router.register("enrollment-codes", views.EnrollmentCodeViewSet, basename="enrollment-code")

urlpatterns = [
    # What agents use; before the router, whose devices/<id>/ would take them.
    path("devices/enroll", agent_views.EnrollView.as_view(), name="enroll"),
    path("devices/me", agent_views.MeView.as_view(), name="device-me"),
    path("devices/token", agent_views.TokenView.as_view(), name="device-token"),
    path("devices/goodbye", agent_views.GoodbyeView.as_view(), name="goodbye"),
    path("devices/heartbeat", agent_views.HeartbeatView.as_view(), name="heartbeat"),
    path("", include(router.urls)),
]
