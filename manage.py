#!/usr/bin/env python
"""Django's command line for the lab server; `manage.py runlab` starts everything."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "labsite.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit(
            "The server's packages are not installed here. Install them with:\n"
            "    make install            (or: pip install '.[server]')"
        )
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
