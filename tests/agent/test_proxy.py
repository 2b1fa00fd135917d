"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY, with a real proxy on this machine."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from agent import wire
from agent.errors import AgentError, ServerUnreachable
from agent.transport import Transport
from labsite.run import tls
from tests.agent.conftest import AgentProcess
from tests.agent.jobs import started
from tests.agent.proxy import ForwardProxy, forwarding
from tests.agent.server import FakeServer

LAB = "http://lab.invalid:8000"  # a name that only the proxy can reach
POLL = wire.Poll(instance_id="i", poll_seq=1)
TOKEN = "labd_key_secret"


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def proxy(server: FakeServer) -> Iterator[ForwardProxy]:
    with forwarding(urlsplit(server.url).port or 0) as made:
        yield made


def refusal(url: str, ca_file: str | None = None) -> AgentError:
    with pytest.raises(AgentError) as caught:
        Transport(url, TOKEN, ca_file).poll(POLL)
    return caught.value


def test_http_goes_through_the_proxy_that_the_environment_names(
    server: FakeServer, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)

    Transport(LAB, TOKEN).poll(POLL)

    assert proxy.asked == [f"POST {LAB}/api/agent/poll"]
    assert server.tokens == [f"Bearer {TOKEN}"]


def test_https_goes_through_a_tunnel_in_which_the_proxy_sees_nothing(
    server: FakeServer, proxy: ForwardProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*tls.own(tmp_path / "tls", ["lab.invalid"]))
    server.encrypt(context)
    ca_file = str(tmp_path / "tls" / "ca.pem")

    Transport("https://lab.invalid", TOKEN, ca_file).poll(POLL)

    assert proxy.asked == ["CONNECT lab.invalid:443"]
    assert server.tokens == [f"Bearer {TOKEN}"]
    assert len(proxy.heard) > 1000
    assert TOKEN.encode() not in proxy.heard
    assert "certificate" in str(refusal("https://other.invalid", ca_file))  # not that one's


def test_what_no_proxy_names_is_not_asked_of_it(
    server: FakeServer, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "elsewhere,lab.invalid")

    said = refusal(LAB)

    assert isinstance(said, ServerUnreachable)
    assert "lab.invalid cannot be resolved" in str(said)
    assert proxy.asked == []


def test_this_machine_is_never_behind_a_proxy(
    server: FakeServer, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the agent that a server starts beside itself would be led out to the proxy."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("ALL_PROXY", proxy.url)

    Transport(server.url, TOKEN).poll(POLL)
    Transport(server.url.replace("127.0.0.1", "localhost"), TOKEN).poll(POLL)

    assert proxy.asked == []
    assert len(server.tokens) == 2


@pytest.mark.parametrize("url", [LAB, "https://lab.invalid"])
def test_a_proxy_that_is_away_is_named_and_not_the_server(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{urlsplit(url).scheme}_proxy", "http://kim:secret@127.0.0.1:1")

    said = refusal(url)

    assert type(said) is ServerUnreachable
    assert "The proxy" in str(said)
    assert "NO_PROXY" in str(said)
    assert "secret" not in str(said)


def test_a_job_runs_with_everything_through_the_proxy(
    tmp_path: Path, server: FakeServer, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    far: Any = SimpleNamespace(url=LAB)
    agent = AgentProcess(tmp_path, far)
    order = server.order(command=["true"])

    agent.start()
    try:
        started(server, order)
        server.wait_event(order["id"], "exited")
    finally:
        agent.stop()

    paths = {urlsplit(asked.split()[1]).path for asked in proxy.asked}
    assert {"/api/devices/enroll", "/api/devices/heartbeat", "/api/agent/poll"} <= paths
    assert len(server.requests) == len(proxy.asked)
