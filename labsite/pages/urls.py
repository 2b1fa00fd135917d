"""Addresses of the pages for people."""

from django.contrib.auth.views import LogoutView
from django.urls import path, re_path
from django.views.generic import RedirectView
from django.views.i18n import JavaScriptCatalog, set_language

from labsite.pages import account, devices, execute, queue, run, runs, verbs

_PK = "(?P<pk>[0-9]{1,18})"  # what a database takes as a key
_VERBS = "|".join(verbs.VERBS)

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="devices"), name="home"),
    path("login/", account.SignIn.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("language/", set_language, name="set_language"),
    path("words.js", JavaScriptCatalog.as_view(packages=["labsite"]), name="words"),
    path("devices/", devices.devices, name="devices"),
    path("devices/add/", devices.add, name="device-add"),
    re_path(rf"^devices/joined/{_PK}/$", devices.joined, name="device-joined"),
    re_path(rf"^devices/{_PK}/(?P<verb>drain|resume)/$", devices.act, name="device-act"),
    path("execute/", execute.execute, name="execute"),
    path("execute/check/", execute.check, name="execute-check"),
    path("queue/", queue.queue, name="queue"),
    path("queue/count/", queue.count, name="queue-count"),
    path("runs/", runs.runs, name="runs"),
    path("runs/<slug:uid>/", run.run, name="run"),
    path("runs/<slug:uid>/log/", run.log, name="run-log"),
    path("runs/<slug:uid>/curve/", run.curve, name="run-curve"),
    path("runs/<slug:uid>/rerun/", verbs.rerun, name="run-rerun"),
    path("runs/<slug:uid>/resume/", verbs.rerun, {"resume": True}, name="run-resume"),
    re_path(rf"^runs/(?P<uid>[0-9a-z_]+)/(?P<verb>{_VERBS})/$", verbs.act, name="run-act"),
]
