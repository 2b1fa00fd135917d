"""Every address of the site. Only here (and in the apps' urls.py) are views imported."""

from django.contrib import admin
from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from labsite.authority import ca_pem
from labsite.foresight import PreviewView, WhyView
from labsite.pages import installing
from labsite.prometheus import metrics

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include("people.urls")),
    path("api/", include("devices.urls")),
    path("api/jobs/preview/", PreviewView.as_view(), name="job-preview"),
    re_path(r"^api/jobs/(?P<uid>[0-9]{8}_[0-9a-f]+)/why/$", WhyView.as_view(), name="job-why"),
    path("api/", include("experiments.urls")),
    path("api/sync/", include("sync.urls")),
    path("api/", include("sync.code.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/ca.pem", ca_pem, name="ca-pem"),
    path("api/docs/", SpectacularSwaggerView.as_view(), name="api-docs"),
    path("metrics", metrics, name="metrics"),
    path("agent.pyz", installing.agent, name="agent-pyz"),
    path("agent.pyz.sha256", installing.agent_sha256, name="agent-pyz-sha256"),
    path("lab.pyz", installing.lab, name="lab-pyz"),
    path("lab.pyz.sha256", installing.lab_sha256, name="lab-pyz-sha256"),
    path("install.sh", installing.script, name="install-script"),
    path("labrun.py", installing.labrun, name="labrun"),
    path("", include("labsite.pages.urls")),
]

handler400 = "labsite.pages.errors.bad_request"
handler403 = "labsite.pages.errors.forbidden"
handler404 = "labsite.pages.errors.not_found"
handler500 = "labsite.pages.errors.server_error"
