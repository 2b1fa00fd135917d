"""Agents in the background, as a person starts and asks them."""

import os
import subprocess
import sys
from pathlib import Path

from agent import presence
from agent.presence import Record
from tests.agent.conftest import ROOT, AgentProcess

Done = subprocess.CompletedProcess[str]


def run(agent: AgentProcess, *options: str, code: str | None = "a-code") -> Done:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    if code:
        environ["LAB_ENROLL_CODE"] = code
    return subprocess.run(
        [*agent.command, *options],
        env=environ,
        cwd=agent.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def asked(agent: AgentProcess, *options: str) -> Done:
    """Of all agents on this state folder."""
    command = [sys.executable, "-m", "agent", "--state-dir", str(agent.state), *options]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environ, cwd=agent.folder, capture_output=True, text=True, timeout=120
    )


def record(agent: AgentProcess) -> Record:
    [(_, found)] = presence.records(agent.state)
    return found


def note(agent: AgentProcess) -> Path:
    [path] = agent.state.glob("*/agent.json")
    return path
