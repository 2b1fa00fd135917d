"""`lab-agent install-service`: what is written, quoted and run. systemd, launchd and cron are
stood in for by programs that write down how they were called; verifiers are the real ones."""

import json
import os
import plistlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import config, host, presence
from agent.errors import ConfigError
from agent.service import installing, logind, managers, options, unitfiles
from agent.service.managers import Choice
from agent.service.unitfiles import Service
from tests.agent.conftest import ROOT, AgentProcess
from tests.agent.server import FakeServer

URL = "http://lab:8000"
ODD = '/opt/my runs 100% "quoted" $HOME \\n it\'s'


def made(**fields: object) -> Service:
    values: dict[str, object] = {
        "name": "lab-agent",
        "description": "Lab agent",
        "command": ("/bin/true", "--server", URL),
        "directory": Path("/"),
        "marks": ("lab:8000", "gpu1"),
        **fields,
    }
    return Service(**values)  # type: ignore[arg-type]


# --- systemd's words ---


def taken_apart(line: str) -> list[str]:
    """A command line as systemd.service(5) reads it: quotes, C escapes, %% and $$."""
    words, word, quote, rest = [], None, "", list(line)
    while rest:
        sign = rest.pop(0)
        if sign == "\\":
            word = (word or "") + rest.pop(0)
        elif sign == quote:
            quote = ""
        elif not quote and sign in "\"'":
            quote, word = sign, word or ""
        elif not quote and sign == " ":
            words, word = words + [word] * (word is not None), None
        else:
            word = (word or "") + sign
    assert not quote
    words += [word] * (word is not None)
    return [_expanded(word) for word in words if word is not None]


def _expanded(word: str) -> str:
    assert not re.search(r"(?<!%)(%%)*%(?!%)", word), f"a specifier in {word}"
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", word), f"a variable in {word}"
    return word.replace("%%", "%").replace("$$", "$")


printable = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)


@given(st.lists(printable, max_size=5), printable)
def test_any_word_comes_out_of_systemd_as_it_went_in(words: list[str], folder: str) -> None:
    program = f"/{folder}/python"

    line = unitfiles.exec_start((program, *words))

    assert "\n" not in line
    found = taken_apart(line)
    if set(program) & set("$\"'\\"):  # which systemd takes for no program
        assert found.pop(0) == "/usr/bin/env"
    assert found == [program, *words]


def test_what_no_unit_can_hold_is_refused() -> None:
    for wrong in ({"command": ("/bin/true", "two\nlines")}, {"directory": Path("/a\tb")}):
        with pytest.raises(ConfigError, match="control character"):
            unitfiles.systemd(made(**wrong), of_system=True)
    with pytest.raises(ConfigError, match="rename that folder"):
        unitfiles.systemd(made(directory=Path("/a\\")), of_system=True)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd on this machine")
@pytest.mark.parametrize("of_system", [True, False])
def test_systemd_itself_takes_the_unit(tmp_path: Path, of_system: bool) -> None:
    folder = tmp_path / "my runs 100% ü"
    folder.mkdir()
    program = folder / "lab agent"
    program.symlink_to("/bin/true")
    whole = made(
        command=(str(program), "--workdir", "/a $b", ";", "50%", ""),
        directory=folder,
        variables={"PATH": "/a b:/c%d", "NO_PROXY": "x,y"},
        user=host.unix_user(),
        lines=installing._UNIT,
        kind="notify",
    )
    unit = tmp_path / "lab-agent.service"
    unit.write_text(unitfiles.systemd(whole, of_system))
    verify = ["systemd-analyze", *([] if of_system else ["--user"]), "verify", str(unit)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}

    done = subprocess.run(verify, capture_output=True, text=True, env=environ)

    assert (done.returncode, done.stderr) == (0, "")
    # The verifier does look: the same with a program that is not there.
    program.unlink()
    done = subprocess.run(verify, capture_output=True, text=True, env=environ)
    assert "is not executable" in done.stderr
    assert str(program) in done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd on this machine")
@pytest.mark.parametrize("name", ["it's", 'the "x"', "$HOME", "a\\b"])
def test_systemd_itself_takes_any_program(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/bin/true")
    unit = tmp_path / "lab-agent.service"
    unit.write_text(unitfiles.systemd(made(command=(str(tmp_path / name),)), of_system=True))

    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_unit_of_the_system_and_one_of_a_user_differ_in_what_they_must() -> None:
    system = unitfiles.systemd(made(user="kim"), of_system=True)
    own = unitfiles.systemd(made(user="kim"), of_system=False)

    assert "\nUser=kim\n" in system
    assert "network-online.target" in system
    assert "WantedBy=multi-user.target" in system
    assert "User=" not in own
    assert "network-online" not in own  # a user's manager knows no such target
    assert "WantedBy=default.target" in own


# --- launchd's and cron's ---


def test_a_plist_holds_every_word_as_it_is(tmp_path: Path) -> None:
    whole = made(
        command=("/bin/true", ODD, "<&>"), variables={"A": ODD}, directory=Path(ODD), user="kim"
    )

    content = unitfiles.launchd(whole, of_system=True)

    read = plistlib.loads(content)
    assert read["Label"] == "com.lab.agent"
    assert read["ProgramArguments"] == ["/bin/true", ODD, "<&>"]
    assert (read["WorkingDirectory"], read["EnvironmentVariables"]) == (ODD, {"A": ODD})
    assert (read["RunAtLoad"], read["KeepAlive"], read["UserName"]) == (True, True, "kim")
    assert read["AbandonProcessGroup"] is True
    assert "UserName" not in plistlib.loads(unitfiles.launchd(whole, of_system=False))


@pytest.mark.skipif(not shutil.which("plutil"), reason="not macOS")
def test_macos_itself_takes_the_plist(tmp_path: Path) -> None:
    path = tmp_path / "com.lab.agent.plist"
    path.write_bytes(unitfiles.launchd(made(command=("/bin/true", ODD)), of_system=False))

    assert subprocess.run(["plutil", "-lint", str(path)]).returncode == 0


def test_cron_runs_the_words_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "it's 100% here"
    out.mkdir()
    script = 'import sys, os, json; json.dump([sys.argv[1:], os.environ["A"]], open("said", "w"))'
    whole = made(
        in_background=(sys.executable, "-c", script, ODD, "50%"),
        variables={"A": ODD},
        directory=out,
    )

    line = unitfiles.crontab(whole)

    assert line.startswith("@reboot ")
    assert line.endswith("# lab-agent\n")
    # cron: a backslash before a % is taken away, a bare % would end the command; then sh has it.
    assert not re.search(r"(?<!\\)%", line)
    command = line.removeprefix("@reboot ").replace("\\%", "%")
    subprocess.run(["sh", "-c", command], check=True)
    assert json.loads((out / "said").read_text()) == [[ODD, "50%"], ODD]


def test_a_program_without_a_background_of_its_own_is_put_there(tmp_path: Path) -> None:
    whole = made(command=("/bin/sleep", "1000"), directory=tmp_path)

    done = subprocess.run(
        ["sh", "-c", f"{unitfiles.shell(whole)} echo $!"], capture_output=True, text=True
    )

    pid = int(done.stdout)
    assert psutil.pid_exists(pid)
    os.kill(pid, 9)


# --- the agent's own ---


def choice(**fields: object) -> Choice:
    values: dict[str, object] = {
        "of_system": False,
        "user": host.unix_user(),
        "name": "lab-agent",
        "manager": "systemd",
        "dry_run": False,
        "remove": False,
        **fields,
    }
    return Choice(**values)  # type: ignore[arg-type]


def described(*arguments: str, environ: dict[str, str] | None = None, **fields: object) -> Service:
    parsed = config.parse(["install-service", "--server", URL, *arguments])
    return installing.describe(parsed, choice(**fields), environ or {})


def test_what_was_for_once_is_not_in_the_service() -> None:
    found = described(
        *("--enroll-code", "secret", "--accept-new-server", "--dry-run", "--user"),
        *("--heartbeat-interval", "5", "--service-name", "x", "--host-id=gpu7", "--verbose"),
    )

    assert found.command[-6:] == (
        *("--server", URL, "--heartbeat-interval", "5", "--host-id=gpu7", "--verbose"),
    )


def test_the_hosts_name_of_today_is_the_agents_for_good() -> None:
    found = described()

    assert found.command[-2:] == ("--host-id", config.parse(["--server", URL]).host_id)
    assert found.in_background == (*found.command, "--daemon")
    assert found.directory == Path.cwd()


def test_a_daemon_gets_what_was_typed_but_its_code() -> None:
    typed = ["--server", URL, "--enroll-code=x", "--daemon", "--accept-new-server"]

    assert options.for_a_daemon(typed) == ["--server", URL, "--accept-new-server", "--log-files"]


def test_the_way_through_a_proxy_is_kept_but_no_password() -> None:
    environ = {
        "HTTPS_PROXY": "http://proxy:3128",
        "http_proxy": "http://kim:secret@proxy:3128",
        "no_proxy": "lab",
        "PATH": "/opt/conda/bin:/bin",
        "LAB_ENROLL_CODE": "x",
    }

    own = described(environ=environ).variables
    system = described(environ=environ, of_system=True).variables

    assert own["HTTPS_PROXY"] == "http://proxy:3128"
    assert own["no_proxy"] == "lab"
    assert own["PATH"] == "/opt/conda/bin:/bin"
    assert "secret" not in str(own)
    assert "LAB_ENROLL_CODE" not in own
    assert "PATH" not in system  # sudo's own is nobody's


def test_from_the_source_a_package_of_the_same_name_does_not_come_first() -> None:
    program, variables = options.program()

    assert program == [sys.executable, "-m", "agent"]
    assert variables == {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}


def test_an_installed_agent_is_named_by_its_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab-agent").touch()
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "lab-agent"), "install-service"])

    assert options.program() == ([str(tmp_path / "lab-agent")], {})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--as-user", "nobody-of-this-name"], "no user 'nobody-of-this-name'"),
        (["--user", "--as-user", "daemon"], "needs root"),
    ],
)
def test_a_user_that_cannot_be_is_refused(arguments: list[str], words: str) -> None:
    given = config.parse(["install-service", "--server", URL, "--dry-run", *arguments]).install

    with pytest.raises(ConfigError, match=words):
        managers.choice(given, "lab-agent")


def test_a_machine_service_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managers.os, "geteuid", lambda: 1000)
    given = config.parse(["install-service", "--server", URL, "--system"]).install

    with pytest.raises(ConfigError, match="sudo"):
        managers.choice(given, "lab-agent")


def test_sudo_names_whose_service_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managers.os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "daemon")
    given = config.parse(["install-service", "--server", URL, "--manager", "systemd"]).install

    chosen = managers.choice(given, "lab-agent")

    assert (chosen.of_system, chosen.user) == (True, "daemon")


def test_without_any_manager_it_says_what_else_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "BOOTED_WITH_SYSTEMD", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    given = config.parse(["install-service", "--server", URL]).install

    with pytest.raises(ConfigError, match="--daemon"):
        managers.choice(given, "lab-agent")


# --- carried out ---


class Machine:
    """A host whose systemctl, loginctl and crontab only write down how they were called."""

    def __init__(self, folder: Path, agent: AgentProcess) -> None:
        self.folder = folder
        self.agent = agent
        self.units = folder / "config" / "systemd" / "user"
        (folder / "bin").mkdir()
        for name in ("systemctl", "loginctl"):
            self.program(name, f'echo "{name} $*" >> {folder}/called')
        self.program(
            "crontab",
            f'case "$*" in *-l) cat {folder}/table;; *) cat > {folder}/table;; esac',
        )

    def program(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def install(
        self, *arguments: str, manager: str = "systemd"
    ) -> subprocess.CompletedProcess[str]:
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(self.folder / "config"),
        }
        environ.pop("LAB_ENROLL_CODE", None)
        command = [*self.agent.command, "install-service", "--user", "--manager", manager]
        return subprocess.run(
            [*command, *arguments],
            env=environ,
            cwd=self.agent.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )

    @property
    def port(self) -> str:
        return self.agent.command[self.agent.command.index("--server") + 1].rsplit(":")[-1]

    @property
    def called(self) -> list[str]:
        path = self.folder / "called"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path, agent: AgentProcess) -> Iterator[Machine]:
    yield Machine(tmp_path, agent)
    for _, record in presence.records(agent.state):
        if record.alive:
            os.kill(record.pid, 9)


def test_it_is_enrolled_written_enabled_and_started(machine: Machine, server: FakeServer) -> None:
    done = machine.install("--enroll-code", "a-code")

    assert (done.returncode, done.stderr) == (0, "")
    assert len(server.asked("/api/devices/enroll")) == 1
    assert machine.called == [
        f"loginctl enable-linger {host.unix_user()}",
        "systemctl --user daemon-reload",
        "systemctl --user enable lab-agent.service",
        "systemctl --user restart lab-agent.service",
    ]
    unit = (machine.units / "lab-agent.service").read_text()
    assert unit in done.stdout
    assert "KillMode=process" in unit
    assert "Type=notify" in unit
    assert "WatchdogSec=" in unit
    assert "a-code" not in unit
    for words in (
        "journalctl --user -u lab-agent.service -f",
        "systemctl --user stop",
        "--remove",
    ):
        assert words in done.stdout


def test_a_dry_run_shows_all_of_it_and_does_none(machine: Machine, server: FakeServer) -> None:
    done = machine.install("--dry-run")

    assert done.returncode == 0
    assert "KillMode=process" in done.stdout
    assert "systemctl --user enable lab-agent.service" in done.stdout
    assert not machine.units.exists()
    assert machine.called == []
    assert server.requests == []


def test_an_agent_that_could_not_start_is_no_service(machine: Machine) -> None:
    done = machine.install()

    assert done.returncode == 2
    assert "not enrolled" in done.stderr
    assert not machine.units.exists()


def test_an_agent_that_runs_by_hand_is_to_be_stopped_first(
    machine: Machine, server: FakeServer
) -> None:
    machine.agent.start()
    server.wait(lambda: server.asked("/api/devices/heartbeat"))

    done = machine.install()

    assert done.returncode == 2
    assert "stop it first" in done.stderr
    assert not machine.units.exists()


def test_it_may_be_installed_again_and_leaves_another_agents_alone(machine: Machine) -> None:
    assert machine.install("--enroll-code", "a-code").returncode == 0
    assert machine.install().returncode == 0
    first = (machine.units / "lab-agent.service").read_text()

    taken = machine.install(
        *("--host-id", "gpu2", "--enroll-code", "b-code", "--service-name", "lab-agent")
    )
    removed = machine.install("--host-id", "gpu2", "--service-name", "lab-agent", "--remove")
    other = machine.install("--host-id", "gpu2", "--enroll-code", "b-code")

    assert removed.returncode == 2
    assert "another agent's" in removed.stderr
    assert taken.returncode == 2
    assert "already starts another lab-agent" in taken.stderr
    assert other.returncode == 0
    longer = f"lab-agent-127.0.0.1-{machine.port}_gpu2.service"
    assert {path.name for path in machine.units.iterdir()} == {"lab-agent.service", longer}
    assert f"systemctl --user restart {longer}" in machine.called
    assert (machine.units / "lab-agent.service").read_text() == first
    assert machine.install("--host-id", "gpu2", "--remove").returncode == 0
    assert [path.name for path in machine.units.iterdir()] == ["lab-agent.service"]


def test_it_is_removed(machine: Machine) -> None:
    machine.install("--enroll-code", "a-code")
    (machine.folder / "called").unlink()

    done = machine.install("--remove")
    again = machine.install("--remove")

    assert done.returncode == 0
    assert "Jobs that run here go on" in done.stdout
    assert machine.called == [
        "systemctl --user disable --now lab-agent.service",
        "systemctl --user daemon-reload",
    ]
    assert list(machine.units.iterdir()) == []
    assert again.returncode == 2
    assert "no service lab-agent" in again.stderr


def test_a_command_that_fails_is_told_with_its_words(machine: Machine) -> None:
    machine.program("systemctl", "echo Access denied >&2; exit 4")

    done = machine.install("--enroll-code", "a-code")

    assert done.returncode == 2
    assert "systemctl --user daemon-reload failed: Access denied" in done.stderr


def test_without_lingering_it_goes_on_and_says_what_that_means(machine: Machine) -> None:
    machine.program("loginctl", "exit 1")

    done = machine.install("--enroll-code", "a-code")

    assert done.returncode == 0
    assert "end when you log out" in done.stdout
    assert f"sudo loginctl enable-linger {host.unix_user()}" in done.stdout


def test_cron_starts_it_now_and_at_each_boot_and_keeps_other_lines(
    machine: Machine, server: FakeServer
) -> None:
    table = machine.folder / "table"
    table.write_text("0 4 * * * backup 50\\%\n")

    done = machine.install("--enroll-code", "a-code", manager="cron")

    assert (done.returncode, done.stderr) == (0, "")
    backup, line = table.read_text().splitlines()
    assert backup == "0 4 * * * backup 50\\%"
    assert line.startswith("@reboot cd ")
    assert line.endswith("--daemon  # lab-agent")
    [(_, record)] = presence.records(machine.agent.state)
    assert record.alive
    assert machine.install("--remove", manager="cron").returncode == 0
    assert table.read_text() == "0 4 * * * backup 50\\%\n"
    assert record.alive


def test_stop_of_a_services_agent_asks_the_service(
    machine: Machine, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal alone would be answered by a restart."""
    machine.program("launchctl", f'echo "launchctl $*" >> {machine.folder}/called; kill "$AGENT"')
    monkeypatch.setenv("XPC_SERVICE_NAME", "com.lab.agent")
    machine.agent.start()
    server.wait(lambda: server.asked("/api/devices/heartbeat"))
    [(_, record)] = presence.records(machine.agent.state)
    monkeypatch.setenv("PATH", f"{machine.folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("AGENT", str(record.pid))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", "agent", "--state-dir", str(machine.agent.state)]

    status = subprocess.run([*command, "--status"], capture_output=True, text=True)
    done = subprocess.run([*command, "--stop"], capture_output=True, text=True)

    assert "com.lab.agent" in status.stdout
    assert (done.returncode, done.stderr) == (0, "")
    [called] = machine.called
    assert re.fullmatch(r"launchctl bootout (system|gui/\d+)/com\.lab\.agent", called)


def test_a_service_that_will_not_stop_its_agent_is_told_with_its_words(
    machine: Machine, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.program("launchctl", "echo not permitted >&2; exit 1")
    monkeypatch.setenv("XPC_SERVICE_NAME", "com.lab.agent")
    machine.agent.start()
    server.wait(lambda: server.asked("/api/devices/heartbeat"))
    monkeypatch.setenv("PATH", f"{machine.folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    done = subprocess.run(
        [sys.executable, "-m", "agent", "--state-dir", str(machine.agent.state), "--stop"],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert "com.lab.agent would start it again" in done.stderr
    assert "not permitted" in done.stderr


def test_an_agent_that_another_program_keeps_is_left_to_that(
    machine: Machine, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_KEPT_BY", "manage.py runlab (process 7)")
    machine.agent.start()
    server.wait(lambda: server.asked("/api/devices/heartbeat"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", "agent", "--state-dir", str(machine.agent.state)]

    status = subprocess.run([*command, "--status"], capture_output=True, text=True)
    done = subprocess.run([*command, "--stop"], capture_output=True, text=True)

    assert "kept by    manage.py runlab (process 7)" in status.stdout
    assert done.returncode == 2
    assert "manage.py runlab (process 7) keeps it running" in done.stderr
    assert machine.agent.process is not None
    assert machine.agent.process.poll() is None


def test_systemd_is_asked_at_the_manager_that_keeps_the_agent() -> None:
    unit = "lab-agent.service"

    assert managers.stop_command(unit, of_system=True) == ("systemctl", "stop", unit)
    assert managers.stop_command(unit, of_system=False) == ("systemctl", "--user", "stop", unit)


# --- logind ---


def logind_of(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / "etc/systemd" / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[Login]\n{text}\n")
    return root


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({}, False),
        ({"logind_conf": "#KillUserProcesses=no"}, False),
        ({"logind_conf": "#KillUserProcesses=yes"}, True),  # what was compiled in
        ({"logind_conf": "#KillUserProcesses=yes\nKillUserProcesses=no"}, False),
        ({"logind_conf": "KillUserProcesses=no\nKillUserProcesses=yes"}, True),
        ({"logind_conf_d__a_conf": "KillUserProcesses=yes"}, True),
        ({"logind_conf_d__a_conf": "#KillUserProcesses=yes"}, False),  # a drop-in's is a note
        (
            {
                "logind_conf": "KillUserProcesses=yes",
                "logind_conf_d__a_conf": "KillUserProcesses=no",
            },
            False,
        ),
        (
            {
                "logind_conf_d__b_conf": "KillUserProcesses=no",
                "logind_conf_d__a_conf": "KillUserProcesses=yes",
            },
            False,
        ),
        ({"logind_conf": "KillUserProcesses=yes\nKillOnlyUsers=lee"}, False),
        ({"logind_conf": "KillUserProcesses=yes\nKillOnlyUsers=lee kim"}, True),
        ({"logind_conf": "KillUserProcesses=yes\nKillExcludeUsers=root kim"}, False),
    ],
)
def test_whether_a_logout_ends_what_was_started(
    tmp_path: Path, files: dict[str, str], ends: bool
) -> None:
    assert logind.ends_processes_of("kim", logind_of(tmp_path, **files)) is ends


def test_root_is_spared_and_etc_comes_before_usr(tmp_path: Path) -> None:
    root = logind_of(tmp_path, logind_conf="KillUserProcesses=yes")

    assert not logind.ends_processes_of("root", root)
    (root / "usr/lib/systemd/logind.conf.d").mkdir(parents=True)
    (root / "usr/lib/systemd/logind.conf.d/a.conf").write_text("KillUserProcesses=no\n")
    assert not logind.ends_processes_of("kim", root)
    logind_of(root, logind_conf_d__a_conf="KillUserProcesses=yes")
    assert logind.ends_processes_of("kim", root)
