"""The file of tokens: who may read it, and which server is meant."""

import json
import stat
from pathlib import Path

import pytest

from agent.cli.credentials import Credentials, Known, address
from agent.cli.errors import CliError, Exit

TOKEN = "labp_0123456789"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "config" / "lab"


def test_only_its_owner_may_read_it(folder):
    Credentials(folder, {}).keep(Known("http://a:1", TOKEN, "kim"))

    path = folder / "credentials.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [p.name for p in folder.iterdir()] == [path.name]


def test_the_server_signed_in_to_last_is_meant(folder):
    kept = Credentials(folder, {})
    kept.keep(Known("http://a:1", TOKEN))
    kept.keep(Known("http://b:2", TOKEN + "b"))

    assert kept.chosen(None).url == "http://b:2"
    assert kept.chosen("a:1").token == TOKEN
    assert Credentials(folder, {"LAB_SERVER": "http://a:1"}).chosen(None).token == TOKEN


def test_the_authority_of_a_first_server_is_kept_before_there_is_a_folder(folder):
    path = Credentials(folder, {}).ca_file(Known("https://a:1", TOKEN, ca="PEM"))

    assert path is not None
    assert Path(path).read_text() == "PEM"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_where_nothing_can_be_kept_is_a_sentence(tmp_path):
    (tmp_path / "config").touch()

    with pytest.raises(CliError, match="cannot be written: Not a directory"):
        Credentials(tmp_path / "config" / "lab", {}).ca_file(Known("https://a:1", TOKEN, ca="PEM"))


def test_a_token_of_the_environment_needs_no_file(folder):
    asked = Credentials(folder, {"LAB_SERVER": "lab:8000", "LAB_TOKEN": "labp_other"})

    assert asked.chosen(None) == Known("http://lab:8000", "labp_other")
    assert not folder.exists()


def test_one_servers_token_is_never_sent_to_another(folder):
    kept = Credentials(folder, {})
    kept.keep(Known("http://a:1", TOKEN))

    with pytest.raises(CliError, match="lab login http://a:2") as caught:
        kept.chosen("http://a:2")
    assert caught.value.exit_code == Exit.REFUSED


def test_a_server_signed_in_to_by_https_is_found_without_its_scheme(folder):
    kept = Credentials(folder, {})
    kept.keep(Known("https://a:1", TOKEN, ca="PEM"))

    known = kept.chosen("a:1")

    assert known.url == "https://a:1"
    with open(kept.ca_file(known)) as file:
        assert file.read() == "PEM"


def test_an_authority_is_written_where_nobody_has_signed_in_yet(folder):
    path = Credentials(folder, {}).ca_file(Known("https://a:1", TOKEN, ca="PEM"))

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with open(path) as file:
        assert file.read() == "PEM"


def test_after_a_logout_the_other_one_is_meant(folder):
    kept = Credentials(folder, {})
    kept.keep(Known("http://a:1", TOKEN))
    kept.keep(Known("http://b:2", TOKEN))

    assert kept.forget("http://b:2")
    assert not kept.forget("http://b:2")
    assert kept.chosen(None).url == "http://a:1"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"servers": 3}', '{"servers": {"a": 1}}'])
def test_a_file_of_anything_else_is_told(folder, text):
    folder.mkdir(parents=True)
    (folder / "credentials.json").write_text(text)

    with pytest.raises(CliError, match="delete it, and sign in again"):
        Credentials(folder, {}).chosen(None)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(CliError, match=r"credentials\.json cannot be"):
        Credentials(tmp_path / "file" / "lab", {}).keep(Known("http://a:1", TOKEN))


@pytest.mark.parametrize(
    ("text", "url"),
    [("lab", "http://lab"), ("lab:80", "http://lab:80"), ("https://lab/x/", "https://lab"),
     (" HTTP://LAB:8000 ", "http://lab:8000"), ("http://[::1]:80", "http://[::1]:80")],
)  # fmt: skip
def test_an_address_is_brought_to_its_form(text, url):
    assert address(text) == url


@pytest.mark.parametrize("text", ["", "ftp://lab", "http://", "http://lab:x", "http://a:b@lab"])
def test_what_is_no_address_is_told(text):
    with pytest.raises(CliError):
        address(text)


def test_the_token_is_shown_by_no_repr():
    assert TOKEN not in repr(Known("http://a", TOKEN))
    json.dumps(repr(Known("http://a", TOKEN)))
