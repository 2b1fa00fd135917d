"""A page as its reader reads it."""

import re
from typing import Any

from django.test import Client


def client_of(user: Any) -> Client:
    """Who is signed in."""
    client = Client()
    client.force_login(user)
    return client


def read(html: str) -> str:
    """Without tags, blanks as one."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def text_of(response) -> str:
    return read(response.content.decode())
