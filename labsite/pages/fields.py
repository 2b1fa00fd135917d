"""Fields of forms in which people write several things, one a line."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _


class Lines(forms.CharField):
    """One entry a line; empty lines are none."""

    def to_python(self, value: Any) -> Any:
        return [line.strip() for line in (value or "").splitlines() if line.strip()]

    def validate(self, value: Any) -> None:
        pass


class Variables(Lines):
    """One NAME=value a line, as a mapping."""

    def to_python(self, value: Any) -> Any:
        pairs = [line.partition("=") for line in super().to_python(value)]
        if any(not equals for _name, equals, _value in pairs):
            raise ValidationError(_("Write one NAME=value a line."))
        return {name.strip(): text.strip() for name, _equals, text in pairs}


def variables_text(variables: dict[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in variables.items())
