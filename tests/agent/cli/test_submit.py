"""What is looked at of a config before the server reads it, and how a refusal is shown."""

import pytest

from agent.cli import __main__ as command
from agent.cli import submit
from agent.cli.errors import CliError


@pytest.mark.parametrize("config", ["a: [", "day: 2026-99-99", "a: &a [*a", "[" * 5000])
def test_a_config_that_is_none_is_left_to_the_server_to_refuse(config):
    assert submit._names_code(config) is False


def test_a_config_that_names_its_code_is_seen():
    assert submit._names_code("lab: {source: {kind: git}}")
    assert not submit._names_code("lab: {gpus: 1}")


def test_a_refusal_reaches_the_terminal_in_its_lines_and_without_commands(capsys):
    command._say(CliError("two:\n  \x1b]0;x\x07 is no name"), as_json=False)

    assert capsys.readouterr().err == "lab: two:\n  \ufffd]0;x\ufffd is no name\n"
