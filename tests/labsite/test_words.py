"""What people read is said in their language: no sentence of a page is outside of gettext."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client
from django.utils import translation

from agent import wire
from tests import make

ROOT = Path(settings.BASE_DIR)
#: Where sentences are made that end on pages, at the desk or in what people's programs are told.
PEOPLES = ["people", "devices", "experiments", "sync", "labsite/pages", "labsite/telling"]
PEOPLES += ["labsite/templatetags"]
PEOPLES_FILES = ["labsite/admin.py", "labsite/deskfront.py", "labsite/api.py"]
#: Said to agents only, who have no language and whose logs are English; and to nobody.
NOT_FOR_PEOPLE = {
    "devices/agent_views.py": "enrolling and rotating: printed by the agent on its host",
    "devices/auth.py": "a token that is not known: printed by the agent on its host",
    "devices/heartbeat.py": "answers to heartbeats",
    "devices/schema.py": "OpenAPI",
    "experiments/agent_views.py": "answers to agents",
    "experiments/management/commands/secretskey.py": "printed on the server's own terminal",
    "experiments/reports.py": "answers to the events of attempts",
    "people/management/commands/token.py": "printed on the server's own terminal",
    "people/schema.py": "OpenAPI",
    "experiments/table/conditions.py": "SQL",
    "sync/agent_views.py": "answers to uploads",
    "sync/append.py": "answers to uploads",
    "sync/code/agent_views.py": "answers to agents",
    "sync/chunks.py": "answers to uploads",
    "sync/displacing.py": "answers to uploads",
    "sync/intake.py": "answers to uploads",
    "sync/management/commands/checkfiles.py": "printed on the server's own terminal",
    "sync/multipart.py": "answers to uploads",
    "sync/room.py": "answers to uploads",
    "sync/serializers.py": "answers to uploads",
    "sync/storage.py": "answers to uploads",
    "sync/upload.py": "answers to uploads",
}
#: Functions of modules for people whose refusals only agents meet.
NOT_FOR_PEOPLE_FUNCTIONS = {
    ("devices/models/enrollment.py", "_spend"),
    ("devices/models/enrollment.py", "_device_for"),
    ("experiments/leases.py", "_refusal"),
    ("experiments/leases.py", "sentence"),  # for the log; the page has its own words
    ("sync/ownership.py", "check_still"),
    ("labsite/api.py", "message"),
}
GETTEXT = {"_", "gettext", "ngettext", "pgettext", "npgettext"}
#: Calls whose words go to a log, to the database or to whoever writes the code.
FOR_PROGRAMMERS = {"RuntimeError", "ImproperlyConfigured", "Http404", "execute", "named_group"}
FOR_PROGRAMMERS |= {
    "compile", "debug", "info", "warning", "error", "exception", "OpenApiParameter",
}  # fmt: skip
PROSE = re.compile(r"[A-Za-z]{2,} [a-z]{2,}")
#: How other languages than a person's begin.
CODE = ("<", "manage.py ", "$(")


def spoken() -> list[str]:
    found = [path for folder in PEOPLES for path in (ROOT / folder).rglob("*.py")]
    names = [str(path.relative_to(ROOT)) for path in found if "migrations" not in path.parts]
    return sorted(name for name in names + PEOPLES_FILES if name not in NOT_FOR_PEOPLE)


def called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def untold(node: ast.AST, path: str) -> Iterator[str]:
    """Prose beneath `node` that is not handed to gettext, as `line: text`."""
    if isinstance(node, ast.Call):
        name = called(node)
        if name.removesuffix("_lazy") in GETTEXT or name in FOR_PROGRAMMERS:
            return
    if isinstance(node, ast.FunctionDef) and (path, node.name) in NOT_FOR_PEOPLE_FUNCTIONS:
        return
    if isinstance(node, ast.keyword) and node.arg == "help_text" and "serializers" in path:
        return  # OpenAPI, which is English
    if isinstance(node, ast.Constant) and is_prose(node.value):
        yield f"{node.lineno}: {node.value}"
    for child in read_by_people(node):
        yield from untold(child, path)


def is_prose(value: object) -> bool:
    return isinstance(value, str) and bool(PROSE.search(value)) and not value.startswith(CODE)


def read_by_people(node: ast.AST) -> list[ast.AST]:
    """The parts of `node` but for docstrings, keys, and what something is compared with."""
    if isinstance(node, ast.Compare):
        return []
    if isinstance(node, ast.Dict):
        return list(node.values)
    parts = ast.iter_child_nodes(node)
    return [
        part
        for part in parts
        if not isinstance(part, ast.Expr) or not isinstance(part.value, ast.Constant)
    ]


@pytest.mark.parametrize("path", spoken())
def test_what_people_read_goes_through_gettext(path):
    assert list(untold(ast.parse((ROOT / path).read_text()), path)) == []


@pytest.mark.parametrize("path", NOT_FOR_PEOPLE)
def test_what_is_not_for_people_is_there(path):
    assert (ROOT / path).exists(), "moved: see whether people read it now"


@pytest.mark.parametrize(
    "code",
    [
        'raise Refused("It does not wait.")',
        'raise Refused(f"{job} does not wait.", state=1)',
        'words = f"{job} is empty"\nraise Wrong(words)',
        'SENTENCES = {"a": "it is empty"}',
    ],
)
def test_a_sentence_that_nobody_translates_is_found(code):
    assert list(untold(ast.parse(code), "x.py"))


@pytest.mark.parametrize(
    "code",
    [
        'raise Refused(_("It does not wait."))',
        'raise Refused(_("%(job)s does not wait.") % {"job": job}, state=1)',
        'def f():\n    """Say that it does not wait."""',
        'logger.warning("it does not wait")',
        'if "does not wait" in text: pass',
    ],
)
def test_what_is_translated_or_read_by_nobody_is_left_alone(code):
    assert not list(untold(ast.parse(code), "x.py"))


# --- on the pages -------------------------------------------------------------------------------

HANGUL = re.compile("[가-힣]")


@pytest.fixture
def reader(db):
    """Somebody signed in who reads Korean."""
    client = Client()
    client.user = make.user("minjun")
    client.force_login(client.user)
    client.cookies[settings.LANGUAGE_COOKIE_NAME] = "ko"
    yield client
    translation.deactivate()  # the test client leaves the language of its last answer behind


def test_the_editor_names_mistakes_in_the_readers_language(reader):
    config = "lr: 0.1\nlab:\n  command: [python]\n  resources: {gpus: many}\n  tags: a\n"

    answer = reader.post("/execute/check/", {"config": config, "project": "digits"}).json()

    assert [mistake["line"] for mistake in answer["mistakes"]] == [4, 5]
    assert all(HANGUL.search(mistake["message"]) for mistake in answer["mistakes"])


def test_a_button_refuses_in_the_readers_language(reader):
    job = make.attempt(make.job(by=reader.user), started=True).job

    page = reader.post(f"/runs/{job.uid}/hold/", follow=True).content.decode()

    assert f"{job} 실험은 더 이상 대기 중이 아닙니다." in page


def test_a_persons_program_that_names_a_language_is_answered_in_it(reader):
    job = make.job(by=reader.user)
    job.cancel()

    answer = reader.post(f"/api/jobs/{job.uid}/cancel/").json()

    assert answer["code"] == "illegal_transition"
    assert HANGUL.search(answer["detail"])


def test_an_agent_is_answered_in_english_whoever_was_answered_before(reader):
    attempt = make.attempt(make.job(by=reader.user), make.device(gpus=1, token="labd_x"))
    attempt.job.cancel()
    attempt.end("cancelled", attempt.created_at)
    reader.get("/queue/")  # which leaves Korean behind in this thread

    answer = Client().post(
        f"/api/agent/attempts/{attempt.pk}/events",
        wire.dumps(make.event(wire.EventType.EXITED, exit_code=0)),
        "application/json",
        headers={"authorization": "Bearer labd_x"},
    )

    assert answer.status_code == 409
    assert answer.json()["detail"].endswith("has ended; what it did since then changes nothing.")
