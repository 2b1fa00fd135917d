"""What the command says of a server that answers, refuses, is another, or is not there."""

import socket

import pytest
import requests

from agent.cli.api import Api
from agent.cli.errors import CliError, Exit, ServerRefused
from tests.agent.cli.web import problem, reply, serving

TOKEN = "labp_0123456789"


def refusal(answer, method: str = "GET") -> CliError:
    with (
        serving(lambda request: answer) as (url, _seen),
        Api(url, TOKEN) as api,
        pytest.raises(CliError) as caught,
    ):
        api.request(method, "/api/jobs/")
    return caught.value


def test_the_token_is_sent_and_the_answer_given():
    with serving(lambda request: reply({"a": 1})) as (url, seen), Api(url, TOKEN) as api:
        assert api.get("/api/me/", q="x y") == {"a": 1}

    assert seen[0].headers["Authorization"] == f"Token {TOKEN}"
    assert seen[0].path == "/api/me/?q=x+y"


def test_a_netrc_does_not_overrule_the_token(tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))

    with serving(lambda request: reply({})) as (url, seen), Api(url, TOKEN) as api:
        api.get("/api/me/")

    assert seen[0].headers["Authorization"] == f"Token {TOKEN}"


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [(400, Exit.USAGE), (403, Exit.REFUSED), (404, Exit.NOT_FOUND), (409, Exit.REFUSED),
     (413, Exit.USAGE), (503, Exit.UNREACHABLE), (507, Exit.UNREACHABLE)],
)  # fmt: skip
def test_a_refusal_is_the_servers_sentence_and_an_exit_code(status, exit_code):
    said = refusal(problem(status, "x", "Do this instead.", field="project"))

    assert (str(said), said.exit_code) == ("Do this instead.", exit_code)
    assert isinstance(said, ServerRefused)
    assert (said.code, said.facts["field"]) == ("x", "project")


def test_a_worthless_token_says_how_to_sign_in_again():
    said = refusal(problem(403, "authentication_failed", "This token was revoked."))

    assert str(said).startswith("This token was revoked. Then sign in again: lab login http://")
    assert said.exit_code == Exit.REFUSED


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((200, {}, b"<html>welcome</html>"), "answers 200 without JSON"),
        ((404, {}, b"<html>no</html>"), "answers 404 without a reason"),
        (
            (502, {}, b"<html>bad gateway</html>"),
            "or a proxy before it, is in trouble",
        ),
        ((404, {}, b"[" * 2_000_000), "answers 404 without a reason"),
        (reply(["no", "object"], 400), "answers 400 without a reason"),
    ],
)
def test_another_program_at_that_address_is_recognised(answer, says):
    with (
        serving(lambda request: answer) as (url, _seen),
        Api(url, TOKEN) as api,
        pytest.raises(CliError, match=says) as caught,
    ):
        api.get("/api/jobs/")
    assert caught.value.exit_code == Exit.UNREACHABLE


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("https://lab.example/api/jobs/", "sign in there with lab login https://lab.example"),
        ("/elsewhere", "a redirection to /elsewhere"),
    ],
)
def test_a_redirection_is_not_followed_with_the_token(location, says):
    said = refusal((301, {"Location": location}, b""), "POST")

    assert says in str(said)
    assert said.exit_code == Exit.UNREACHABLE


def test_nobody_there_is_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(CliError, match="Nothing answers at") as caught:
        Api(f"http://127.0.0.1:{port}", TOKEN).get("/api/me/")

    assert caught.value.exit_code == Exit.UNREACHABLE


def test_https_spoken_to_http_says_what_to_write():
    with (
        serving(lambda request: reply({})) as (url, _seen),
        pytest.raises(CliError, match="try lab login http://127"),
    ):
        Api(url.replace("http:", "https:"), TOKEN).get("/api/me/")


def test_a_body_that_is_cut_is_told():
    cut = (200, {"Content-Length": "1000"}, b"x" * 10)
    with serving(lambda request: cut) as (url, _seen), Api(url, TOKEN) as api:
        answer = api.request("GET", "/file", stream=True)
        with pytest.raises(CliError) as caught:
            list(api.blocks(answer))

    assert caught.value.exit_code == Exit.UNREACHABLE


@pytest.mark.parametrize("token", ["", "short", "two words here", "labp_토큰토큰토큰", "a\nb" * 9])
def test_what_cannot_be_a_token_is_not_sent(token):
    with pytest.raises(CliError, match="That is no token"):
        Api("http://127.0.0.1:1", token)


def test_the_token_is_in_no_traceback():
    assert TOKEN not in repr(vars(Api("http://127.0.0.1:1", TOKEN))) + repr(requests.Request())
