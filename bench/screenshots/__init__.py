"""Pictures of every page: wide and narrow, light and dark, English and Korean.

    .venv/bin/python -m bench.screenshots [FOLDER] [--keep] [--only NAMES] [--ways WAYS]
    .venv/bin/python -m bench.screenshots --serve

Serves a lab made up for the purpose from a temporary folder, and takes the pictures with the
system's Chromium. `--keep` writes the ones that README and guides show to docs/img. `--serve`
serves the lab until its standard input ends, and takes none: tests/browser looks at the same
pages.

`lab` makes the lab up, `served` serves it, `pages` says what is photographed and how one comes
there, `browser` takes the pictures.
"""
