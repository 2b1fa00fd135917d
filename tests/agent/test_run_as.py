"""An agent of root that runs jobs as their submitters, with accounts made for the test."""

import grp
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent import config, users, wire
from agent.code.manifest import File, Manifest
from agent.doctor import hostchecks
from agent.doctor.finding import WRONG
from agent.errors import ConfigError
from agent.files.globs import Globs
from agent.files.outputs import Outputs
from agent.files.runfiles import RunFiles
from agent.files.userfolders import UserFolders, check_workdir
from tests.agent.accounts import accounts, as_user, needs_root
from tests.agent.conftest import AgentProcess, clear, eventually
from tests.agent.jobs import pids, started
from tests.agent.server import FakeServer

pytestmark = needs_root


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that everybody can reach, as a workdir must be; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="lab-run-as-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def people(place: Path) -> Iterator[list[str]]:
    with accounts(place, "kim", "lee") as names:
        yield names


@pytest.fixture
def kim(people: list[str]) -> str:
    return people[0]


@pytest.fixture
def lee(people: list[str]) -> str:
    return people[1]


@pytest.fixture
def folder(place: Path, people: list[str]) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(dir=place))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def agent(folder: Path, server: FakeServer) -> Iterator[AgentProcess]:
    made = AgentProcess(folder, server, "--run-as", "submitter")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()
    for attempt in made.state.glob("*/attempts/*"):
        clear(attempt.name)


@pytest.fixture
def secret(folder: Path) -> Path:
    made = folder / "secret"
    made.write_text("root's only")
    made.chmod(0o600)
    return made


def run_dir(agent: AgentProcess, user: str) -> Path:
    return agent.work / "users" / user / "logs_127.0.0.1" / "digits"


def failure(server: FakeServer, order: dict) -> str:
    message = server.wait_event(order["id"], "start_failed")["message"]
    assert "\n" not in message
    return str(message)


# --- what the job is ---


def test_a_job_runs_as_the_user_whom_its_order_names(
    agent: AgentProcess, server: FakeServer, kim: str
) -> None:
    report = "id -un; id -gn; id -Gn; umask; echo $HOME $USER $SHELL; pwd; touch made"
    order = server.order(run_as=kim, command=["sh", "-c", report], working_directory="~")
    agent.start()

    assert server.wait_event(order["id"], "exited")["exit_code"] == 0
    log = run_dir(agent, kim) / f"{order['run_name']}.log"
    home = pwd.getpwnam(kim).pw_dir
    name, group, groups, umask, account, where = log.read_text().splitlines()
    assert (name, group, umask) == (kim, kim, "0027")
    assert groups.split() == [kim, f"{kim}-lab"]
    assert account == f"{home} {kim} /bin/sh"
    assert where == home
    assert stat.S_IMODE((Path(home) / "made").stat().st_mode) == 0o640


def test_its_files_are_its_users_and_the_metadata_says_whose(
    agent: AgentProcess, server: FakeServer, kim: str
) -> None:
    content = b"lr: 0.1\n"
    write = "cat {config} > $LAB_METRICS_CSV; echo w > x.part; mv x.part $LAB_CHECKPOINT"
    command = ["sh", "-c", f"cd $LAB_RUN_DIR; {write}"]
    digest = hashlib.sha256(content).hexdigest()
    order = server.order(run_as=kim, command=command, config_sha256=digest)
    server.configs[order["id"]] = content
    agent.start()

    assert server.wait_event(order["id"], "exited")["exit_code"] == 0
    run = run_dir(agent, kim) / order["run_name"]
    files = [run.with_suffix(suffix) for suffix in (".csv", ".pt", ".log", ".yaml")]
    assert {path.owner() for path in files} == {kim}
    assert files[0].read_bytes() == content
    metadata = yaml.safe_load(files[3].read_bytes())
    assert (metadata["unix_user"], metadata["exit_code"]) == (kim, 0)
    assert metadata["config"] == "lr: 0.1\n"


def test_a_folder_that_only_a_group_of_the_user_may_enter_is_good_to_run_in(
    agent: AgentProcess, server: FakeServer, kim: str, folder: Path
) -> None:
    shared = folder / "shared"
    shared.mkdir(mode=0o750)
    os.chown(shared, 0, grp.getgrnam(f"{kim}-lab").gr_gid)
    order = server.order(run_as=kim, working_directory=str(shared), command=["sh", "-c", "pwd"])
    agent.start()

    server.wait_event(order["id"], "exited")

    assert (run_dir(agent, kim) / f"{order['run_name']}.log").read_text() == f"{shared}\n"


def test_what_it_resumes_from_is_laid_in_as_the_users(
    agent: AgentProcess, server: FakeServer, kim: str
) -> None:
    server.files["run_001.pt"] = b"weights"
    file = {
        "experiment_uid": "20260101_beef",
        "file_name": "run_001.pt",
        "lay_as": "run_001.pt",
        "size_bytes": 7,
        "sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    command = ["sh", "-c", "cat $LAB_RESUME_FROM; echo more >> $LAB_RESUME_FROM"]
    order = server.order(
        run_as=kim,
        run_name="run_001",
        command=command,
        resume={"files": [file], "checkpoint": "run_001.pt", "point": {}},
    )
    agent.start()

    assert server.wait_event(order["id"], "exited")["exit_code"] == 0
    assert (run_dir(agent, kim) / "run_001.log").read_text() == "weights"
    assert (run_dir(agent, kim) / "run_001.pt").owner() == kim


def test_it_is_stopped_with_all_that_it_left(
    agent: AgentProcess, server: FakeServer, kim: str
) -> None:
    command = ["sh", "-c", "setsid sleep 1000 & exec sleep 1000"]
    order = server.order(run_as=kim, command=command)
    agent.start()
    pid = started(server, order)
    eventually(lambda: len(pids(order["id"])) == 2)
    assert {Path(f"/proc/{one}").owner() for one in pids(order["id"])} == {kim}

    server.stop(order["id"])

    assert server.wait_event(order["id"], "exited")["cause"] == "stopped"
    assert pids(order["id"]) == []
    assert not Path(f"/proc/{pid}").exists()


def test_it_outlives_the_agent_and_its_end_is_reported_by_the_next(
    agent: AgentProcess, server: FakeServer, kim: str
) -> None:
    command = ["sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; exit 4"]
    order = server.order(run_as=kim, command=command, working_directory="~")
    agent.start()
    pid = started(server, order)
    agent.kill()
    agent.start(code=None)
    assert pid in pids(order["id"])

    as_user(kim, "touch", f"{pwd.getpwnam(kim).pw_dir}/go")

    assert server.wait_event(order["id"], "exited")["exit_code"] == 4


# --- who does not run ---


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-person", "no Unix user 'no-such-person'"),
        ("daemon", "account of the system"),
        ("root", "account of the system"),
        ("nobody", "account of the system"),
        (None, "has no Unix name"),
    ],
)
def test_whoever_is_no_person_here_runs_nothing(
    agent: AgentProcess, server: FakeServer, name: str | None, words: str
) -> None:
    order = server.order(run_as=name)
    agent.start()

    assert words in failure(server, order)
    assert not (agent.work / "users").exists()


def test_a_server_cannot_choose_a_user_where_root_did_not_allow_it(
    folder: Path, server: FakeServer, kim: str
) -> None:
    order = server.order(run_as=kim)
    agent = AgentProcess(folder, server).start()

    try:
        assert "--run-as submitter" in failure(server, order)
    finally:
        agent.kill()


def test_the_agent_tells_the_server_how_it_runs_jobs(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: server.asked("/api/devices/heartbeat"))

    beat = server.asked("/api/devices/heartbeat")[0]
    assert (beat["unix_user"], beat["run_as"]) == ("root", "submitter")


def test_what_the_user_may_not_reach_is_named(
    agent: AgentProcess, server: FakeServer, kim: str, folder: Path
) -> None:
    closed = folder / "closed"
    (closed / "inside" / "bin").mkdir(parents=True)
    closed.chmod(0o700)
    (closed / "inside" / "bin" / "python").symlink_to("/bin/sh")
    script = folder / "mine.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    orders = [
        server.order(run_as=kim, working_directory=str(closed)),
        server.order(run_as=kim, working_directory=str(closed / "inside")),
        server.order(run_as=kim, python=str(closed / "inside")),
        server.order(run_as=kim, command=[str(script)]),
    ]
    agent.start()

    messages = [failure(server, order) for order in orders]

    assert f"{kim!r} may not enter the working directory {closed} on" in messages[0]
    assert f"{kim!r} may not enter the working directory {closed / 'inside'}" in messages[1]
    assert f"{closed / 'inside'} on this host that {kim!r} can reach" in messages[2]
    assert f"{kim!r} may not run {script}" in messages[3]


# --- files between users ---


def test_another_user_can_neither_read_nor_replace_a_runs_files(
    agent: AgentProcess, server: FakeServer, kim: str, lee: str
) -> None:
    order = server.order(run_as=kim, command=["sh", "-c", "echo 1 > $LAB_METRICS_CSV"])
    agent.start()
    server.wait_event(order["id"], "exited")
    runs = run_dir(agent, kim)
    metrics = runs / f"{order['run_name']}.csv"
    attempts = [
        ("cat", str(metrics)),
        ("ls", str(runs)),
        ("sh", "-c", f"echo forged > {metrics}"),
        ("sh", "-c", f"echo forged > {runs}/run_999.csv"),
        ("mv", str(runs), f"{runs}.old"),
        ("rm", "-rf", str(agent.work / "users" / kim)),
    ]

    assert as_user(kim, "cat", str(metrics)).stdout == "1\n"
    assert all(as_user(lee, *attempt).returncode != 0 for attempt in attempts)
    assert metrics.read_text() == "1\n"


def test_no_user_can_put_something_else_in_the_place_of_the_folders_above(
    agent: AgentProcess, server: FakeServer, kim: str
) -> None:
    order = server.order(run_as=kim)
    agent.start()
    server.wait_event(order["id"], "exited")
    runs = run_dir(agent, kim)

    for taken in (runs, runs.parent, runs.parents[1], runs.parents[2]):
        assert as_user(kim, "mv", str(taken), f"{taken}.mine").returncode != 0
        assert as_user(kim, "rmdir", str(taken)).returncode != 0


def test_links_that_a_user_plants_lead_the_agent_nowhere(
    agent: AgentProcess, server: FakeServer, kim: str, folder: Path, secret: Path
) -> None:
    """A first job of kim's lays traps for the agent's next start in the same project."""
    outside = folder / "outside"
    outside.mkdir(mode=0o700)
    content = b"lr: 0.1\n"
    traps = [
        f"ln -s {outside} .old",
        "touch run_002.log",  # is to be put aside: into .old
        f"ln -s {outside} run_002",
        f"ln -s {secret} run_002.yaml",
        f"ln -s {secret} .run_002.yaml.part",
        f"ln -s {secret} 20260101_002_config.yaml",
    ]
    first = server.order(
        run_as=kim,
        run_name="run_001",
        command=["sh", "-c", f"cd $LAB_RUN_DIR; {'; '.join(traps)}"],
    )
    agent.start()
    assert server.wait_event(first["id"], "exited")["exit_code"] == 0

    second = server.order(
        run_as=kim,
        run_name="run_002",
        experiment_uid="20260101_002",
        config_sha256=hashlib.sha256(content).hexdigest(),
    )
    server.configs[second["id"]] = content

    assert f"cannot be written by {kim!r}" in failure(server, second)
    assert list(outside.iterdir()) == []
    assert secret.read_text() == "root's only"


@pytest.mark.parametrize(
    "swap", ["ln -s {secret} {{config}}", "mkfifo {{config}}", "ln -s /dev/zero {{config}}"]
)
def test_what_a_job_puts_in_the_place_of_its_config_is_not_told_of(
    agent: AgentProcess, server: FakeServer, kim: str, secret: Path, swap: str
) -> None:
    content = b"lr: 0.1\n"
    act = swap.format(secret=secret)
    order = server.order(
        run_as=kim,
        command=["sh", "-c", f"rm {{config}}; {act}; exec sleep 0.1"],
        config_sha256=hashlib.sha256(content).hexdigest(),
    )
    server.configs[order["id"]] = content
    agent.start()

    assert server.wait_event(order["id"], "exited")["exit_code"] == 0
    metadata = yaml.safe_load((run_dir(agent, kim) / f"{order['run_name']}.yaml").read_text())
    assert metadata["exit_code"] == 0
    assert "config" not in metadata


def test_a_file_that_only_root_can_read_is_not_sent_whatever_name_it_has(
    folder: Path, kim: str, secret: Path
) -> None:
    """A hard link shows nobody where it came from; where links are not protected, a user may
    make one to any file."""
    folders = UserFolders(folder / "logs_lab")
    runs = folders.make(users.find(kim), "digits")
    os.link(secret, runs / "run_001.csv")

    run = RunFiles("a1", "uid", "digits", "run_001", 1, runs, rights_in=folders.rights_in)

    with pytest.raises(PermissionError):
        run.open("run_001.csv")


def test_outputs_are_looked_for_and_opened_with_the_users_rights(
    folder: Path, kim: str, secret: Path
) -> None:
    """The working directory is the user's own, links and all."""
    folders = UserFolders(folder / "logs_lab")
    runs = folders.make(users.find(kim), "digits")
    code, notes = folder / "code", folder / "notes"
    (code / "runs").mkdir(parents=True)
    notes.mkdir()
    shutil.chown(code / "runs", kim)
    outputs = Outputs(
        code, Globs(["runs/**"]), Globs(()), notes, rights=lambda: folders.rights_in(runs)
    )
    outputs.note_before()
    (code / "runs" / "closed").mkdir(mode=0o700)
    (code / "runs" / "closed" / "roots").write_text("x")
    os.link(secret, code / "runs" / "linked")
    (code / "runs" / "mine").write_text("x")

    run = RunFiles(
        "a1", "uid", "digits", "run_001", 1, runs, rights_in=folders.rights_in, outputs=outputs
    )

    assert sorted(run.look()) == ["run_001/runs/linked", "run_001/runs/mine"]
    with run.open("run_001/runs/mine") as file:
        assert file.read() == b"x"
    with pytest.raises(PermissionError):
        run.open("run_001/runs/linked")


def test_outputs_are_found_where_only_a_group_of_the_user_may_enter(
    folder: Path, kim: str
) -> None:
    folders = UserFolders(folder / "logs_lab")
    runs = folders.make(users.find(kim), "digits")
    code, notes = folder / "shared", folder / "notes"
    notes.mkdir()
    (code / "runs").mkdir(parents=True)
    for shared in (code, code / "runs"):
        shared.chmod(0o2770)
        os.chown(shared, 0, grp.getgrnam(f"{kim}-lab").gr_gid)
    outputs = Outputs(
        code, Globs(["runs/**"]), Globs(()), notes, rights=lambda: folders.rights_in(runs)
    )
    outputs.note_before()
    with users.find(kim).rights():
        (code / "runs" / "metrics.csv").write_text("x")

    run = RunFiles(
        "a1", "uid", "digits", "run_001", 1, runs, rights_in=folders.rights_in, outputs=outputs
    )

    assert list(run.look()) == ["run_001/runs/metrics.csv"]
    with run.open("run_001/runs/metrics.csv") as file:
        assert file.read() == b"x"


def test_groups_are_remembered_while_nobody_tells_them(
    kim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = users.find(kim)
    monkeypatch.setattr(users, "GROUPS_SECONDS", 0.0)
    assert set(users.groups_of(user.uid)) == set(user.groups)

    def away(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", away)

    assert set(users.groups_of(user.uid)) == set(user.groups)
    assert users.groups_of(user.uid + 1000) == ()


def test_the_rights_are_those_of_the_projects_owner_whatever_lies_below(
    folder: Path, kim: str, lee: str
) -> None:
    """kim makes a folder of lee's look like one of her own, for the agent to act as lee in it."""
    folders = UserFolders(folder / "logs_lab")
    runs = folders.make(users.find(kim), "digits")
    home = Path(pwd.getpwnam(lee).pw_dir)
    (runs / ".old").symlink_to(home.parent)
    everybodys = folder / "everybodys"
    everybodys.mkdir()
    everybodys.chmod(0o777)

    with folders.rights_in(runs / ".old" / home.name):
        (everybodys / "made").touch()

    assert (runs / ".old" / home.name).owner() == lee
    assert (everybodys / "made").owner() == kim


def test_a_folder_of_runs_that_belongs_to_another_account_is_not_taken_over(
    agent: AgentProcess, server: FakeServer, kim: str, lee: str
) -> None:
    runs = run_dir(agent, kim)
    runs.mkdir(parents=True)
    shutil.chown(runs, lee)
    order = server.order(run_as=kim)
    agent.start()

    assert "belongs to another account" in failure(server, order)


# --- rights ---


def test_one_thread_acts_as_a_user_while_the_others_go_on_as_root(kim: str, secret: Path) -> None:
    inside, done, seen = threading.Event(), threading.Event(), []

    def act() -> None:
        with users.find(kim).rights():
            inside.set()
            done.wait(10)
            try:
                secret.read_text()
            except PermissionError:
                seen.append("refused")
        seen.append(secret.read_text())

    thread = threading.Thread(target=act)
    thread.start()
    assert inside.wait(10)
    groups = os.getgroups()
    assert secret.read_text() == "root's only"
    done.set()
    thread.join()

    assert seen == ["refused", "root's only"]
    assert os.getgroups() == groups


def test_rights_come_back_after_an_error(kim: str, secret: Path) -> None:
    with pytest.raises(KeyError), users.find(kim).rights():
        raise KeyError

    assert secret.read_text() == "root's only"


def test_a_workdir_that_others_can_replace_is_refused(folder: Path, kim: str) -> None:
    open_to_all, theirs = folder / "open", folder / "theirs"
    open_to_all.mkdir()
    open_to_all.chmod(0o1777)  # as /tmp: whoever comes first has the name
    theirs.mkdir()
    shutil.chown(theirs, kim)

    check_workdir(folder)
    for wrong in (open_to_all, theirs / "below"):
        with pytest.raises(ConfigError, match="none but root may write"):
            check_workdir(wrong)


def test_git_of_root_does_not_run_what_another_user_put_into_the_source(
    folder: Path, server: FakeServer, kim: str
) -> None:
    """git runs programs that a repository's own config names, such as core.fsmonitor."""
    source, ran = folder / "source", folder / "ran"
    source.mkdir()
    _repository(source, ran)
    source.chmod(0o777)
    agent = AgentProcess(folder, server, "--run-as", "submitter", "--source", str(source)).start()

    try:
        server.wait(lambda: len(server.asked("/api/devices/heartbeat")) > 10)
        assert server.asked("/api/devices/heartbeat")[-1]["source"] is None
        assert not ran.exists()
    finally:
        agent.kill()


def _repository(source: Path, ran: Path) -> None:
    """Whose git leaves `ran` behind."""
    monitor = ran.with_name("monitor.sh")
    monitor.write_text(f"#!/bin/sh\ntouch {ran}\n")
    monitor.chmod(0o755)
    commit = ["-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x", "--allow-empty"]
    for arguments in (["init", "-q"], commit, ["config", "core.fsmonitor", str(monitor)]):
        subprocess.run(["git", *arguments], cwd=source, check=True)


def test_the_agent_does_not_start_on_such_a_workdir(agent: AgentProcess) -> None:
    agent.work.mkdir()
    agent.work.chmod(0o777)

    assert agent.start().process.wait(20) == 2
    assert "none but root may write" in agent.said()


def test_doctor_looks_whether_it_can_be(folder: Path, kim: str) -> None:
    given = ["doctor", "--run-as", "submitter", "--workdir"]
    assert "each job runs as its submitter" in str(
        hostchecks.user(config.parse([*given, str(folder)]))
    )

    home = pwd.getpwnam(kim).pw_dir
    found = hostchecks.user(config.parse([*given, home]))
    assert found.mark == WRONG
    assert f"none but root may write to {home}" in found.text


def test_only_root_can_offer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config.parse(["--server", "http://lab", "--run-as", "submitter"])
    assert chosen.run_as is wire.JobUser.SUBMITTER
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(ConfigError, match="needs root"):
        users.check_rights()


# --- the code that is laid down for it ---


def test_code_that_is_laid_down_is_its_users_and_nobody_elses(
    agent: AgentProcess, server: FakeServer, kim: str, lee: str
) -> None:
    content = b"lr = 0.1\n"
    sha256 = hashlib.sha256(content).hexdigest()
    document = Manifest({"train.py": File(sha256, len(content))}, {"data": "/data"}).dump()
    code = {"kind": "snapshot", "sha256": hashlib.sha256(document).hexdigest()}
    until_told = "until test -e go; do sleep .05; done"
    command = ["sh", "-c", f"cat train.py; stat -c %U . train.py data; touch made; {until_told}"]
    with server.turn:
        order = server.order(run_as=kim, command=command, source=code)
        server.manifests[order["id"]] = document
        server.code[sha256] = content
    agent.start()
    started(server, order)
    folder = run_dir(agent, kim) / ".code" / f"{order['experiment_uid']}-1"
    log = run_dir(agent, kim) / f"{order['run_name']}.log"
    eventually(lambda: log.read_text().count(kim) == 3)

    refused = as_user(lee, "cat", str(folder / "train.py"))
    go = as_user(kim, "touch", str(folder / "go"))

    assert refused.returncode != 0
    assert go.returncode == 0
    assert server.wait_event(order["id"], "exited")["exit_code"] == 0
    assert log.read_text().startswith("lr = 0.1\n")
    eventually(lambda: not folder.exists())


def test_git_works_with_the_rights_of_the_user_and_not_with_roots(
    agent: AgentProcess, server: FakeServer, folder: Path, kim: str
) -> None:
    open_to_all, roots = folder / "open", folder / "roots"
    commits = [_committed(place) for place in (open_to_all, roots)]
    shutil.chown(open_to_all, kim, kim)
    for path in open_to_all.rglob("*"):
        shutil.chown(path, kim, kim)
    roots.chmod(0o700)
    command = ["sh", "-c", "cat train.py; stat -c %U train.py"]
    good, bad = (
        server.order(
            run_as=kim, command=command, source={"kind": "git", "url": str(url), "commit": commit}
        )
        for url, commit in zip((open_to_all, roots), commits, strict=True)
    )
    agent.start()

    assert server.wait_event(good["id"], "exited")["exit_code"] == 0
    log = run_dir(agent, kim) / f"{good['run_name']}.log"
    assert log.read_text().split() == ["first", kim]
    assert f"as {kim!r}" in failure(server, bad)


def _committed(place: Path) -> str:
    """A repository there, and its one commit."""
    place.mkdir()
    git = ["git", "-c", "user.name=k", "-c", "user.email=k@k", "-C", str(place)]
    subprocess.run([*git, "init", "-q"], check=True)
    (place / "train.py").write_text("first\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    return subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
