"""A part of a page that many look at is made once for all who may see the same.

An open page asks for its parts by itself (`X-Part`), and labsite/pool.py makes one at a time. The
list of 200 GPU servers takes a third of a second of the interpreter that heartbeats need too, so
what was made for one viewer serves all who had asked before it was begun; and for five times as
long as it took to make, also who asks later. They are told that it is older than their question
(`X-Older`), and the page looks again: nobody is left with what was before. Fifty viewers cost
little more than one does.

What is shared is rendered for the `Eyes` alone, without request and user, and made of what a
reader with such eyes may see. Tokens of forms are put in afterwards, for each reader their own.
"""

import secrets
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.translation import get_language

from experiments.models import Borrow, Job
from labsite.environ import ARRIVED
from labsite.pages.access import Sight

#: Of the time since one was begun, the share that making it may take is one part in so many.
SHARE = 5
#: Longer than anybody waits for a part; and as many as there are ways to look at one, as a rule.
KEPT_SECONDS = 60.0
MOST_KEPT = 16
#: Where a reader's token goes; nothing that people write can be it.
_TOKEN = secrets.token_hex(32).encode()


@dataclass(frozen=True)
class Eyes:
    """All that a shared part may know of its reader; stands for `sight` in templates."""

    may_manage: bool
    may_submit: bool
    hidden: frozenset[int]  # the keys of the projects that they do not see

    def sees(self, job: Job) -> bool:
        return job.project_id not in self.hidden


def eyes_of(user: Any) -> Eyes | None:
    """None: of somebody who sees or may do what is theirs alone, for whom nothing is shared."""
    sight = Sight(user)
    if sight.hidden and Job.objects.filter(user=user, project__in=sight.hidden).exists():
        return None
    if not sight.may_manage and Borrow.objects.open().filter(user=user).exists():
        return None
    return Eyes(sight.may_manage, sight.may_submit, sight.hidden)


@dataclass
class _Made:
    began: float
    took: float
    html: bytes

    def serves(self, arrived: float) -> bool:
        return arrived - self.began <= SHARE * self.took


@dataclass
class SharedPart:
    """One template of parts, whose context is made of a reader and of what was asked."""

    template: str
    _kept: dict[Hashable, _Made] = field(default_factory=dict)

    def answer(
        self, request: HttpRequest, asked: Hashable, context: Callable[[], dict[str, Any]]
    ) -> HttpResponse:
        """
        Args:
            asked: what of the request the context is made of, besides the reader's eyes.
        """
        arrived = request.META.get(ARRIVED)
        eyes = eyes_of(request.user) if arrived is not None else None
        if eyes is None:
            return render(request, self.template, context())
        key = (asked, eyes, get_language(), timezone.get_current_timezone_name())
        made = self._kept.get(key)
        if made is None or not made.serves(arrived):
            made = self._make(eyes, context)
            self._keep(key, made)
        answer = HttpResponse(_with_token(made.html, request))
        if made.began < arrived:
            answer["X-Older"] = "1"
        return answer

    def _make(self, eyes: Eyes, context: Callable[[], dict[str, Any]]) -> _Made:
        began = time.monotonic()
        html = render_to_string(self.template, context() | _of_reader(eyes)).encode()
        return _Made(began, time.monotonic() - began, html)

    def _keep(self, key: Hashable, made: _Made) -> None:
        oldest = made.began - KEPT_SECONDS
        others = [pair for pair in self._kept.items() if pair[0] != key and pair[1].began > oldest]
        self._kept = dict([*others[1 - MOST_KEPT :], (key, made)])


def _with_token(html: bytes, request: HttpRequest) -> bytes:
    return html.replace(_TOKEN, get_token(request).encode()) if _TOKEN in html else html


def _of_reader(eyes: Eyes) -> dict[str, Any]:
    """As labsite/pages/frame.py tells templates of whoever reads."""
    return {
        "sight": eyes,
        "may_manage": eyes.may_manage,
        "may_submit": eyes.may_submit,
        "csrf_token": _TOKEN.decode(),
    }
