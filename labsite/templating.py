"""Django's templates, whose contexts are gone with the page that was made of them.

A context and what was pushed onto it hold one another, and so all that a page shows: of the list
of 200 GPU servers ten thousand objects, left to the collector of cycles, which stops every thread
while it looks at what gathered. Taken apart they go one by one, as they are let go of.
"""

from typing import Any

from django.http import HttpRequest
from django.template import TemplateDoesNotExist
from django.template.backends.django import DjangoTemplates, Template, reraise
from django.template.context import make_context
from django.utils.safestring import SafeString


class Templates(DjangoTemplates):
    def from_string(self, template_code: str) -> "Once":
        return Once(super().from_string(template_code).template, self)

    def get_template(self, template_name: str) -> "Once":
        return Once(super().get_template(template_name).template, self)


class Once(Template):
    """A template that takes apart the context that it made of what it was given."""

    def render(
        self, context: dict[str, Any] | None = None, request: HttpRequest | None = None
    ) -> SafeString:
        made = make_context(context, request, autoescape=self.backend.engine.autoescape)
        try:
            return self.template.render(made)
        except TemplateDoesNotExist as exc:
            reraise(exc, self.backend)
        finally:
            made.dicts.clear()
