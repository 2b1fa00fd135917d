"""How DRF reads bodies. A module of its own: DRF's views import it before labsite.api exists."""

from typing import Any

from rest_framework.parsers import JSONParser

from agent import wire


class StrictJSONParser(JSONParser):
    """JSON as the wire has it: no NaN, NUL or half character, of which no database is fond."""

    def parse(self, stream, media_type=None, parser_context=None) -> Any:
        return wire.loads(stream.read())
