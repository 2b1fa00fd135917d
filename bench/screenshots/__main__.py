"""The command: see the package."""

import argparse
import shutil
import sys
from pathlib import Path

from bench import screenshots
from bench.screenshots import browser, pages
from bench.screenshots.served import ROOT, served


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.screenshots", description=(screenshots.__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("screenshots"))
    parser.add_argument("--keep", action="store_true", help="renew docs/img")
    parser.add_argument("--only", default="", help="names of pages, with commas")
    parser.add_argument("--ways", default="", help="such as 1440-light-en, with commas")
    parser.add_argument("--serve", action="store_true", help="take none, serve till stdin ends")
    parser.add_argument("--on", type=Path, metavar="DATA", help="with --serve: its data folder")
    options = parser.parse_args()
    if options.serve:
        if options.on is not None:
            options.on.mkdir(parents=True, exist_ok=True)
        with served(folder=options.on) as url:
            print(url, flush=True)
            sys.stdin.read()
        return
    names = _chosen(parser, options.only, [*pages.ALL, *pages.OF_FIRST_DAY])
    _take(options.folder, names, _chosen(parser, options.ways, browser.WAYS))
    if options.keep:
        shutil.copytree(options.folder / "img", ROOT / "docs/img", dirs_exist_ok=True)


def _chosen(parser: argparse.ArgumentParser, given: str, known: list[str]) -> list[str]:
    chosen = given.split(",") if given else known
    if unknown := set(chosen).difference(known):
        parser.error(f"none is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return chosen


def _take(folder: Path, names: list[str], ways: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for is_empty, known in ((False, pages.ALL), (True, pages.OF_FIRST_DAY)):
        if of_this_lab := [name for name in names if name in known]:
            with served(is_empty=is_empty) as url:
                browser.take(url, folder, of_this_lab, ways)


if __name__ == "__main__":
    main()
