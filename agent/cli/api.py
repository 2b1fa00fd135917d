"""The lab server's API, as a person with a token uses it.

    with Api("https://lab.example:8000", token) as api:
        job = api.request("POST", "/api/jobs/", json={"config": text}).json()

No answer and each refusal is a CliError with a sentence. Nothing is sent twice: whoever queues or
follows a run, or goes on with a download, asks again by itself.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from agent.cli.errors import CliError, Exit, ServerRefused
from agent.reach import proxies_for, why

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0  # without a byte
BLOCK_BYTES = 64 * 1024  # what a line that is cut may cost
MAX_REFUSAL_BYTES = 1024 * 1024
ADDRESS = "lab login "
TRUST = (
    "sign in with the line of your account's page, which has --ca-sha256, or have the lab's CA "
    "installed here"
)
_TOKEN = re.compile(r"[\x21-\x7e]{8,512}")
#: What the server calls a token that is worth nothing, with whatever status.
_UNKNOWN_HERE = ("authentication_failed", "not_authenticated")
#: A refusal by its status; 4 otherwise.
_EXITS = {400: Exit.USAGE, 404: Exit.NOT_FOUND, 410: Exit.NOT_FOUND, 413: Exit.USAGE}


class _Token(AuthBase):
    """Stands nowhere else, and is not overruled by a ~/.netrc."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Token {self._token}"
        return request


class Api:
    """One connection to a server. Not for several threads at once."""

    def __init__(self, url: str, token: str | None, ca_file: str | None = None) -> None:
        """
        Args:
            url: http(s)://host[:port]
            token: a person's; None: nobody's.
            ca_file: the pinned certificate authority; None: this system's.

        Raises:
            CliError: the token cannot be one.
        """
        if token is not None and not _TOKEN.fullmatch(token):
            raise CliError("That is no token: copy it whole from your account's page, labp_…")
        self.url = url.rstrip("/")
        self._auth = _Token(token)
        # Given with each request: a session's own `verify` loses against REQUESTS_CA_BUNDLE.
        self._verify: bool | str = ca_file or True
        self._proxies = proxies_for(url)
        self._session = requests.Session()

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        stream: bool = False,
        also: Collection[int] = (),
        seconds: float = ANSWER_SECONDS,
    ) -> requests.Response:
        """The answer, if it is a 2xx or `also` names its status.

        With `stream` its body is still to be read, by blocks().

        Args:
            path: from the root, /api/jobs/; quoted by whoever builds it.
            data: a raw body: bytes, or an iterator of them, which is sent as it comes.
            seconds: so long without a byte are too many.

        Raises:
            ServerRefused: the server's own sentence.
            CliError: no answer, or none of a lab server.
        """
        try:
            response = self._session.request(
                method,
                self.url + path,
                json=json,
                data=data,
                params=params,
                headers={"Accept": "application/json", **(headers or {})},
                auth=self._auth,
                timeout=(CONNECT_SECONDS, seconds),
                verify=self._verify,
                proxies=self._proxies,
                allow_redirects=False,  # a POST that is redirected comes back as a GET
                stream=stream,
            )
        except requests.RequestException as exc:
            raise self.unreachable(exc) from None
        if response.status_code >= 300 and response.status_code not in also:
            raise self._refusal(response)
        return response

    def get(self, path: str, **params: Any) -> Any:
        """The JSON at `path`."""
        return self.json("GET", path, params=params)

    def json(self, method: str, path: str, **how: Any) -> Any:
        """As request(), and read as JSON.

        Raises:
            CliError: also when it is none.
        """
        response = self.request(method, path, **how)
        try:
            return response.json()
        except ValueError:
            raise self._stranger(f"{response.status_code} without JSON") from None

    def blocks(self, response: requests.Response) -> Iterator[bytes]:
        """The body of a streamed answer; it is let go of at the end, also when that is early.

        Raises:
            CliError: it was cut.
        """
        with response:
            try:
                yield from response.iter_content(BLOCK_BYTES)
            except requests.RequestException as exc:
                raise self.unreachable(exc) from None

    def unreachable(self, exc: requests.RequestException) -> CliError:
        sentence = why(exc, self.url, address=ADDRESS, trust=TRUST)
        return CliError(sentence, Exit.UNREACHABLE)

    def _refusal(self, response: requests.Response) -> CliError:
        status = response.status_code
        if status < 400:
            response.close()
            return self._stranger(_elsewhere(self.url, response.headers.get("Location", "")))
        facts = _object(response)
        detail = facts.get("detail")
        if not isinstance(detail, str):
            return self._no_refusal_of_ours(status)
        if status == 401 or facts.get("code") in _UNKNOWN_HERE:
            detail += f" Then sign in again: lab login {self.url}"
        exit_code = _EXITS.get(status, Exit.REFUSED)
        if status >= 500:
            exit_code = Exit.UNREACHABLE
        return ServerRefused(detail, exit_code, status, facts)

    def _no_refusal_of_ours(self, status: int) -> CliError:
        if status >= 500:
            words = f"{self.url} answers {status}: the server, or a proxy before it, is in trouble"
            return CliError(f"{words}; try again in a moment", Exit.UNREACHABLE)
        return self._stranger(f"{status} without a reason")

    def _stranger(self, what: str) -> CliError:
        words = f"{self.url} answers {what}. Is it the address of the lab server?"
        return CliError(words, Exit.UNREACHABLE)


def _elsewhere(url: str, location: str) -> str:
    there = urlsplit(location)
    if there.scheme and there.netloc and there.netloc != urlsplit(url).netloc:
        return f"from elsewhere: sign in there with lab login {there.scheme}://{there.netloc}"
    if there.scheme == "https":
        return f"only over https: sign in there with lab login https://{there.netloc}"
    return f"with a redirection to {location[:200] or 'nowhere'}"


def _object(response: requests.Response) -> dict[str, Any]:
    """The body of a refusal; {}: it is none of the lab server's."""
    body = bytearray()
    try:
        with response:
            for block in response.iter_content(BLOCK_BYTES):
                body += block
                if len(body) > MAX_REFUSAL_BYTES:
                    return {}
        facts = json.loads(body)
    except (requests.RequestException, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
