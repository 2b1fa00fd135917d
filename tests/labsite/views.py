"""Views as the pool meets them. The URLconf of its tests."""

import hashlib
import itertools
import threading

from django.conf import settings
from django.db import connection
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from labsite.environ import ARRIVED

#: What the views were given, newest last.
seen: list[bytes] = []
FILE_BYTES = 8 * 1024**2


def echo(request):
    body = request.read()
    seen.append(body)
    return JsonResponse(
        {
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
            "from": request.META["REMOTE_ADDR"],
            "scheme": request.scheme,
            "path": request.path,
            "query": request.GET.dict(),
            "cookies": request.COOKIES,
            "forwarded": request.headers.get("X-Forwarded-For"),
            "thread": threading.current_thread().name,
        }
    )


#: Views that hold their thread wait for it.
gate = threading.Event()


def held(request):
    gate.wait(10)
    return JsonResponse({"arrived": request.META[ARRIVED]})


def broken(request):
    raise RuntimeError("the view's secret")


def large(request):
    return HttpResponse(b"x" * FILE_BYTES)


def download(request):
    return FileResponse((settings.LAB_DATA_DIR / "large").open("rb"))


def part(request):
    file = (settings.LAB_DATA_DIR / "large").open("rb")
    response = FileResponse(file, status=206, headers={"Content-Length": "5"})
    response.file_to_send = (file, 2, 5)
    return response


def stream(request):
    return StreamingHttpResponse(f"line {number}\n" for number in range(3))


class Parts:
    """Notes on `seen` which part was made; there is no end to them."""

    def __iter__(self):
        for number in itertools.count():
            seen.append(number)
            yield b"x" * 1024**2


def parts(request):
    response = StreamingHttpResponse(Parts())
    response.parts_to_send = Parts()
    return response


def database(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JsonResponse({"connection": id(connection.connection)})


urlpatterns = [
    path("held", held),
    path("echo", echo),
    path("broken", broken),
    path("large", large),
    path("download", download),
    path("part", part),
    path("stream", stream),
    path("parts", parts),
    path("database", database),
]
