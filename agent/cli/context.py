"""What each verb is given: what was asked, the server, and where to show the answer."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from agent.cli.api import Api
from agent.cli.credentials import Credentials, Known, folder_of
from agent.cli.errors import Exit
from agent.cli.progress import Progress
from agent.cli.show import Out


@dataclass(frozen=True)
class Verb:
    """One word of the command line."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    act: "Callable[[Lab], int]"  # the exit code; CliError: the sentence and its own
    epilog: str = ""


class Lab:
    """One call of the command."""

    def __init__(self, options: argparse.Namespace, command: list[str] | None = None) -> None:
        """`command` is what stood behind `--`; None: nothing did."""
        self.options = options
        self.command = command
        self.out = Out(as_json=options.json)
        self.credentials = Credentials(folder_of())

    @cached_property
    def known(self) -> Known:
        """The server that is meant. Raises: CliError, when nobody is signed in."""
        return self.credentials.chosen(self.options.server)

    @cached_property
    def api(self) -> Api:
        return Api(self.known.url, self.known.token, self.credentials.ca_file(self.known))

    @cached_property
    def progress(self) -> Progress:
        return self.out.progress()

    def answer(self, data: Any, show: Callable[[], None]) -> int:
        """The one object with --json, else what a person reads."""
        if self.out.as_json:
            self.out.json(data)
        else:
            show()
        return Exit.OK
