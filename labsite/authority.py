"""The certificate authority that `runlab --tls self` made, as others must know it."""

import hashlib
import ssl
from pathlib import Path

from django.conf import settings
from django.http import FileResponse, Http404, HttpRequest
from django.views.decorators.http import require_safe


def fingerprint(pem: str) -> str:
    """The hex SHA-256 of a certificate's DER, as `openssl x509 -fingerprint -sha256` has it."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def ca_sha256() -> str | None:
    """What stands in the enrollment line (`--ca-sha256`); None: no authority of our own."""
    file = _file()
    return fingerprint(file.read_text()) if file else None


@require_safe
def ca_pem(request: HttpRequest) -> FileResponse:
    """GET /api/ca.pem: no secret, and needed before anything can be trusted."""
    file = _file()
    if file is None:
        raise Http404("this server has no certificate authority of its own")
    return FileResponse(file.open("rb"), content_type="application/x-pem-file", filename="ca.pem")


def _file() -> Path | None:
    file = Path(settings.LAB_CA_FILE) if settings.LAB_CA_FILE else None
    return file if file and file.exists() else None
