"""What others wrote is served as they wrote it."""

import hashlib

from django.conf import settings

VENDOR = settings.BASE_DIR / "static/vendor"


def test_each_file_is_byte_for_byte_the_one_that_was_taken():
    lines = (VENDOR / "SHA256SUMS").read_text().splitlines()
    known = dict(reversed(line.split("  ")) for line in lines)

    found = {
        str(path.relative_to(VENDOR)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.glob("*/*")
    }

    assert found == known


def test_each_of_them_comes_with_its_licence():
    assert {path.name for path in VENDOR.iterdir() if path.is_dir()} == {
        path.parent.name for path in VENDOR.glob("*/LICENSE")
    }
