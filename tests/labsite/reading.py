"""A page as its reader reads it."""

import re


def read(html: str) -> str:
    """Without tags, blanks as one."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def text_of(response) -> str:
    return read(response.content.decode())
