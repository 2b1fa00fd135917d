"""What others wrote is served as they wrote it."""

import hashlib

import pytest
from django.conf import settings

VENDORS = [settings.BASE_DIR / "static/vendor", settings.BASE_DIR / "tests/browser/vendor"]
in_each = pytest.mark.parametrize("vendor", VENDORS, ids=["pages", "tests"])


@in_each
def test_each_file_is_byte_for_byte_the_one_that_was_taken(vendor):
    lines = (vendor / "SHA256SUMS").read_text().splitlines()
    known = dict(reversed(line.split("  ")) for line in lines)

    found = {
        str(path.relative_to(vendor)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in vendor.glob("*/*")
    }

    assert found == known


@in_each
def test_each_of_them_comes_with_its_licence(vendor):
    assert {path.name for path in vendor.iterdir() if path.is_dir()} == {
        path.parent.name for path in vendor.glob("*/LICENSE")
    }
