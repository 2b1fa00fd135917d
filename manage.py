#!/usr/bin/env python
"""Django's command line for the lab server; `manage.py runlab` starts everything."""

import os
import sys

OURS = ("agent", "devices", "experiments", "labsite", "people", "sync")


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "labsite.settings")
    try:
        if sys.argv[1:2] == ["runlab"]:
            from labsite.run import options, service

            if service.WORD in sys.argv[2:]:
                sys.exit(service.main(sys.argv[2:]))
            options.into_environment(sys.argv[2:])  # the settings are read only once
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] in OURS:
            raise
        sys.exit(
            f"The package {exc.name.partition('.')[0]} is not installed in {sys.prefix}.\n"
            "Install what the server needs with:\n"
            "    make install            (or: pip install '.[server]')\n"
            "and start it with .venv/bin/python manage.py"
        )


if __name__ == "__main__":
    main()
