"""OpenAPI schemas of the wire's messages, made of agent/wire.py itself: they cannot differ.

@extend_schema(request=body(wire.Heartbeat), responses=body(wire.HeartbeatReply))
"""

from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from drf_spectacular.extensions import OpenApiAuthenticationExtension

from agent import wire

Schema = dict[str, Any]

_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    float: {"type": "number"},
    Any: {},
}


def body(message: type) -> dict[str, Schema]:
    """The message as a JSON body, in drf-spectacular's form for a raw schema."""
    return {"application/json": schema_of(message)}


def schema_of(hint: Any) -> Schema:
    """The JSON schema of one type hint of the wire."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return schema_of(inner[0]) | _limits(inner[1:])
    if origin is list:
        return {"type": "array", "items": schema_of(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(inner[1])}
    if inner:  # a union: one type, or null
        [one] = [schema_of(arg) for arg in inner if arg is not NoneType]
        return one | {"nullable": True}
    if is_dataclass(hint):
        return _object(hint)
    if issubclass(hint, Enum):
        return {"type": "string", "enum": [member.value for member in hint]}
    return dict(_PLAIN[hint])


def _limits(limits: tuple[Any, ...]) -> Schema:
    said: Schema = {}
    for limit in limits:
        if isinstance(limit, wire.Range):
            said |= {"minimum": limit.low, "maximum": limit.high}
        elif isinstance(limit, wire.Items):
            said |= {"maxItems": limit.max_count}
        elif isinstance(limit, wire.Text):
            said |= {"maxLength": limit.max_length}
            said |= {"pattern": f"^{limit.pattern}$"} if limit.pattern else {}
    return said


def _object(message: type) -> Schema:
    hints = get_type_hints(message, include_extras=True)
    required = [
        field.name
        for field in fields(message)
        if field.default is MISSING and field.default_factory is MISSING
    ]
    summary = (message.__doc__ or "").strip()
    return {
        "type": "object",
        "title": message.__name__,
        "description": "" if summary.startswith(f"{message.__name__}(") else summary,
        "properties": {name: schema_of(hint) for name, hint in hints.items()},
        "required": required,
    }


class DeviceTokenScheme(OpenApiAuthenticationExtension):
    """What the schema says of devices.auth.DeviceAuthentication."""

    target_class = "devices.auth.DeviceAuthentication"
    name = "deviceToken"

    def get_security_definition(self, auto_schema: Any) -> Schema:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "An agent's own token (labd_…); its device and its attempts only.",
        }
