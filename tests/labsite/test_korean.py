"""Korean is complete: every sentence of the source has its own, and the .mo files are current."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

ROOT = settings.BASE_DIR
MESSAGES = Path("locale/ko/LC_MESSAGES")
SPOKEN = ["people", "devices", "experiments", "labsite", "sync"]
SPOKEN += ["templates", "static/js", "locale"]

pytestmark = pytest.mark.skipif(
    shutil.which("msgfmt") is None, reason="no gettext here: install the package gettext"
)


@pytest.mark.parametrize("domain", ["django", "djangojs"])
def test_the_compiled_words_are_those_of_the_text(domain, tmp_path):
    text = ROOT / MESSAGES / f"{domain}.po"

    subprocess.run(["msgfmt", "--check", "-o", tmp_path / "made.mo", text], check=True)

    assert (tmp_path / "made.mo").read_bytes() == text.with_suffix(".mo").read_bytes()


@pytest.mark.parametrize("domain", ["django", "djangojs"])
def test_every_sentence_of_the_source_has_its_korean(domain, tmp_path):
    for folder in SPOKEN:
        shutil.copytree(ROOT / folder, tmp_path / folder)

    subprocess.run(
        [
            sys.executable,
            "-m",
            "django",
            "makemessages",
            "-l",
            "ko",
            "-d",
            domain,
            "--no-obsolete",
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin"},
    )

    entries = (tmp_path / MESSAGES / f"{domain}.po").read_text().split("\n\n")[1:]
    without = [entry for entry in entries if "fuzzy" in entry or _is_untold(entry)]
    assert without == []


def _is_untold(entry: str) -> bool:
    return re.search(r'^msgstr(\[0\])? ""$(?!\n")', entry, re.MULTILINE) is not None
