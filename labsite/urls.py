"""Every address of the site. Only here (and in the apps' urls.py) are views imported."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include("devices.urls")),
    path("api/", include("experiments.urls")),
    path("api/sync/", include("sync.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(), name="api-docs"),
    path("", include("labsite.pages.urls")),
]
