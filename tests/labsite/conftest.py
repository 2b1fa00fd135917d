"""What all tests of the site share."""

import pytest
from django.utils import translation


@pytest.fixture(autouse=True)
def _english_again():
    """A page leaves its reader's language behind in the thread that made it."""
    yield
    translation.deactivate()
