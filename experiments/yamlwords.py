"""What the YAML reader stumbled over, in words that say what to do about it.

Its own words are English, written for those who write parsers, and differ between its two
readers (libyaml's and Python's); what is not known here is shown in them, after a sentence.
"""

import re

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

#: What is found in "context: problem" -> the sentence. The first that is found counts.
_KNOWN = {
    "mapping values are not allowed": gettext_lazy(
        "a colon does not fit here: put a text that holds “: ” into quotes, or check how far "
        "this line and the one above are indented"
    ),
    "sequence entries are not allowed": gettext_lazy(
        "a list item (-) does not fit here: begin the list on a line of its own"
    ),
    "flow sequence": gettext_lazy(
        "the list that begins with [ goes wrong here: a comma or ] is missing"
    ),
    "flow mapping": gettext_lazy(
        "the keys that begin with { go wrong here: a comma or } is missing"
    ),
    "found unexpected end of stream": gettext_lazy("a quotation mark is nowhere closed"),
    "could not find expected ':'": gettext_lazy(
        "the line before this place has no colon: write it as “key: value”"
    ),
    "cannot start any token": gettext_lazy(
        "no value begins with this character: put the text into quotes"
    ),
    "escape|hexdecimal": gettext_lazy(
        "\\ has a meaning in double quotes, and this one has none: put the text into single "
        "quotes, or write \\\\"
    ),
    "undefined alias": gettext_lazy(
        "no anchor of that name stands above: write &name where it is meant, or put a text "
        "that begins with * into quotes"
    ),
    "scanning an a(lias|nchor)": gettext_lazy("put a text that begins with * or & into quotes"),
    "duplicate anchor": gettext_lazy(
        "the anchor (&name) is set for the second time: give it another name"
    ),
    "tag": gettext_lazy("put a text that begins with ! into quotes: what follows is no tag"),
    "expected '-'|block collection": gettext_lazy(
        "a list stands above, and this is not an item of it: begin it with “- ”, or check how "
        "far it is indented"
    ),
    "block mapping": gettext_lazy(
        "this does not go on with the keys above: check how far it is indented, and that no "
        "text goes on after its closing quotation mark"
    ),
    "node content": gettext_lazy("a value is missing here; put a text that begins so into quotes"),
    "directive|incompatible YAML": gettext_lazy(
        "a line that begins with “%” is for YAML itself: put the text into quotes"
    ),
    "block scalar": gettext_lazy(
        "after | or > the line has to end: the text follows below it, indented"
    ),
}


def sentence(problem: str, context: str = "") -> str:
    """One sentence in the reader's language, for what PyYAML calls problem and context."""
    found = f"{context}: {problem}" if context else problem
    for pattern, words in _KNOWN.items():
        if re.search(pattern, found):
            return str(words)
    return _("this is not YAML (%(problem)s)") % {"problem": found}
