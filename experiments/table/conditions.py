"""Conditions that Django has no words for."""

from typing import Any

from django.db.models import BooleanField, DurationField, F, Func, Value


class Compare(Func):
    """`expression < value` as a condition."""

    output_field = BooleanField()
    conditional = True

    def __init__(self, expression: Any, operator: str, value: Any) -> None:
        super().__init__(expression, Value(value, output_field=DurationField()))
        self.arg_joiner = f" {operator} "
        self.template = "(%(expressions)s)"

    def __repr__(self) -> str:
        return f"Compare({self.arg_joiner})"


class HasTag(Func):
    """Whether one of a job's tags is like this pattern; whatever else stands in the JSON.

    Without regard to case, which on SQLite is that of ASCII.
    """

    output_field = BooleanField()
    conditional = True

    def __init__(self, pattern: str) -> None:
        super().__init__(F("tags"), Value(pattern))

    def as_sql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        tags, nothing = compiler.compile(self.source_expressions[0])
        [pattern] = self.source_expressions[1:]
        patterns = [pattern.value.lower(), pattern.value]
        return f"EXISTS ({_TAGS[connection.vendor] % tags})", [*nothing, *patterns]


_TAGS = {
    "sqlite": "SELECT 1 FROM json_each(%s) AS tag"
    " WHERE tag.type = 'text'"
    " AND (lower(tag.value) LIKE %%s ESCAPE '\\' OR tag.value LIKE %%s ESCAPE '\\')",
    "postgresql": "SELECT 1 FROM jsonb_path_query(%s, '$[*]') AS tag"
    " WHERE jsonb_typeof(tag) = 'string'"
    " AND (lower(tag #>> '{}') LIKE %%s ESCAPE '\\' OR tag #>> '{}' LIKE %%s ESCAPE '\\')",
}
