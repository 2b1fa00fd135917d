"""The two places whose HTML is not ours, and the Content-Security-Policy each of them needs.

Everywhere else the strict policy of settings.CONTENT_SECURITY_POLICY holds.
"""

from csp.constants import HEADER
from csp.middleware import CSPMiddleware, PolicyParts
from django.http import HttpRequest, HttpResponseBase

SELF = "'self'"
#: django-unfold's Alpine builds functions from strings, and its templates carry small scripts
#: and styles of their own.
ADMIN = {
    "script-src": [SELF, "'unsafe-eval'", "'unsafe-inline'"],
    "style-src": [SELF, "'unsafe-inline'"],
}
#: Swagger UI and DRF's browsable pages start themselves from an inline script.
API = {"script-src": [SELF, "'unsafe-inline'"], "style-src": [SELF, "'unsafe-inline'"]}


#: What is no page may load nothing, whoever opens it as one.
DATA = "default-src 'none'; frame-ancestors 'none'"


class PolicyMiddleware(CSPMiddleware):
    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Agents send hundreds of requests a second, whose answers are JSON."""
        if response.get("Content-Type") == "application/json" and HEADER not in response:
            response.headers[HEADER] = DATA
            return response
        return super().process_response(request, response)

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        if request.path_info.startswith("/admin/"):
            parts.replace = ADMIN
        elif request.path_info.startswith("/api/"):
            parts.replace = API
        return parts
