"""A sentence of ours around names of others, as plain text and as Slack reads it.

Slack's mark-up and Mattermost's Markdown make calls to everybody and links of text. A name is
therefore laid into a code span, where neither looks for any; longer text loses what begins one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_NAME, MOST_TEXT = 200, 500
#: Line ends, controls, and what turns the direction of writing or is not seen.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]+"
)
#: After these a space without width keeps apart what would mean something together.
_MEANT = re.compile(r"@|\](?=\()|:(?=//)|!(?=\[)")


class Text(str):
    """Of more than a name: a sentence out of a log."""


class Ours(str):
    """Words or a figure of this server's: nobody chose them."""


@dataclass(frozen=True)
class Phrase:
    """`words` is one of our sentences, with %(names)s of `values`."""

    words: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> str:
        return self.words % {name: _cut(value) for name, value in self.values.items()}

    def slack(self) -> str:
        return _escaped(self.words) % {name: _shown(value) for name, value in self.values.items()}


def _cut(value: Any) -> str:
    text = _UNSEEN.sub(" ", str(value)).strip()
    most = MOST_NAME if type(value) is str else MOST_TEXT
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _shown(value: Any) -> str:
    if isinstance(value, Ours):
        return _escaped(value)
    text = _escaped(_cut(value).replace("`", "'"))
    return _MEANT.sub("\\g<0>\u200b", text) if isinstance(value, Text) else f"`{text or ' '}`"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
