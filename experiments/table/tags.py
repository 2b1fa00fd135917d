"""Tags, as people type them."""

import csv
from collections.abc import Iterable

from django.utils.translation import gettext as _

from experiments.errors import TagsWrong
from experiments.options import MAX_TAG_CHARACTERS, MAX_TAGS


def tags_of(text: str) -> list[str]:
    """`baseline, paper`, as parted() reads it.

    Raises:
        TagsWrong
    """
    return checked(parted(text))


def parted(text: str) -> list[str]:
    """With commas between; one with a comma in it stands in quotes: `"a, b", paper`."""
    try:
        [tags] = csv.reader([text.replace("\n", ",")], skipinitialspace=True)
    except csv.Error:  # one of more characters than it takes, which are too many for us as well
        return [text]
    return [tag.strip() for tag in tags if tag.strip()]


def typed(tags: Iterable[str]) -> str:
    """What parted() reads as these."""
    return ", ".join(_quoted(tag) if "," in tag or tag.startswith('"') else tag for tag in tags)


def _quoted(tag: str) -> str:
    doubled = tag.replace('"', '""')
    return f'"{doubled}"'


def checked(tags: Iterable[str]) -> list[str]:
    """Each once, without blanks around it.

    Raises:
        TagsWrong: too many, too long, or with a character that nobody sees.
    """
    found = list(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    if len(found) > MAX_TAGS:
        raise TagsWrong(_("A run has at most %(n)d tags.") % {"n": MAX_TAGS})
    for tag in found:
        if len(tag) > MAX_TAG_CHARACTERS:
            words = _("A tag has at most %(n)d characters.")
            raise TagsWrong(words % {"n": MAX_TAG_CHARACTERS})
        if not tag.isprintable():
            raise TagsWrong(_("A tag is one line of printable text."))
    return found
