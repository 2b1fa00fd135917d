"""What an environment holds is read from its folders; nothing of it is run."""

from pathlib import Path
from typing import Any

import pytest

from agent import environment, packages, users, uvproject, wire
from agent.environment import Places
from agent.errors import StartFailed
from agent.interpreters import Interpreter
from agent.lacks import Lacking
from tests.agent.conftest import AgentProcess
from tests.agent.server import FakeServer, make_order


def site(prefix: Path, *names: str) -> Path:
    folder = prefix / "lib" / "python3.11" / "site-packages"
    for name in names:
        (folder / name).mkdir(parents=True)
    return folder


def test_packages_are_named_as_pip_names_them(tmp_path: Path) -> None:
    site(
        tmp_path, "torch-2.5.1+cu124.dist-info", "Ruamel.YAML_clib-0.2.dist-info", "torch", "x.pth"
    )

    assert packages.installed(tmp_path) == ["ruamel-yaml-clib==0.2", "torch==2.5.1+cu124"]


def test_a_folder_of_thousands_is_cut(tmp_path: Path) -> None:
    site(tmp_path, *(f"p{n:05d}-1.dist-info" for n in range(packages.MAX_PACKAGES + 10)))

    assert len(packages.installed(tmp_path)) == packages.MAX_PACKAGES


def test_torch_says_for_which_cuda_it_was_built(tmp_path: Path) -> None:
    torch = site(tmp_path, "torch") / "torch" / "version.py"
    torch.write_text("__version__ = '2.5.1+cu124'\ncuda: Optional[str] = '12.4'\nhip = None\n")

    found = Interpreter(tmp_path, {})

    assert (found.torch_version(), found.torch_cuda()) == ("2.5.1+cu124", "12.4")


# --- python: uv ----------------------------------------------------------------------------------


def launch(
    tmp_path: Path, path: str = "/usr/bin:/bin", around: dict[str, str] | None = None, **more: Any
) -> environment.Launch:
    said = {"python": "uv", "command": ["python", "train.py"], **more}
    order = wire.decode(wire.AttemptOrder, make_order(**said))
    places = Places(tmp_path / "logs", "run_001", None, None)
    around = {"PATH": path, **(around or {})}
    return environment.launch(
        order, places, tmp_path, {}, users.own(), around, environments=tmp_path / "uv"
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (tmp_path / "uv.lock").write_text("version = 1\n")
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    return tmp_path


def test_the_command_goes_through_uv_in_an_environment_of_the_lock(project: Path) -> None:
    made = launch(project, f"{project}/bin:/usr/bin:/bin")
    (project / "uv.lock").write_text("version = 2\n")
    other = launch(project, f"{project}/bin:/usr/bin:/bin")

    assert made.arguments[3:] == ["uv", f"{project}/bin/uv", "python", "train.py"]
    assert made.executable == "/bin/sh"
    prefix = Path(made.variables["UV_PROJECT_ENVIRONMENT"])
    assert prefix.parent == project / "uv"
    assert prefix != Path(other.variables["UV_PROJECT_ENVIRONMENT"])


@pytest.mark.parametrize("installed", ["editable", "directory", "path", "virtual"])
def test_what_imports_its_own_folder_shares_no_environment(project: Path, installed: str) -> None:
    lock = f'[[package]]\nname = "x"\nsource = {{ {installed} = "." }}\n'
    copy = project / "copy"
    copy.mkdir()
    for folder in (project, copy):
        (folder / "uv.lock").write_text(lock)
        (folder / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    laid = {"kind": "snapshot", "sha256": "0" * 64}

    def prefix(**more: Any) -> str:
        made = launch(project, f"{project}/bin:/usr/bin:/bin", **more)
        return made.variables["UV_PROJECT_ENVIRONMENT"]

    here, there = prefix(), prefix(working_directory=str(copy))
    is_shared = installed == "virtual"
    assert (here == there) is is_shared
    assert prefix(source=laid) == (here if is_shared else f"{project}/.venv")


def test_without_a_lock_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="make it with `uv lock`"):
        launch(tmp_path)


def test_a_host_without_uv_lacks_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvproject, "FOLDERS", ("folder/of/uv",))

    with pytest.raises(Lacking, match="has none on this host") as refused:
        launch(project)

    assert refused.value.lacks == [wire.Lack("uv", "", "uv")]
    assert refused.value.search_path.endswith("/folder/of/uv")  # where it is looked for again


def test_uv_is_told_the_way_out_and_other_commands_are_not(project: Path) -> None:
    way = {"https_proxy": "http://proxy:3128", "SSL_CERT_FILE": "/lab/ca.pem", "HTTP_X": "1"}
    said = {"environment": {"https_proxy": "http://mine:1"}}

    by_uv = launch(project, f"{project}/bin:/usr/bin:/bin", around=way, **said).variables
    plain = launch(project, around=way, python=None, command=["true"]).variables

    assert (by_uv["https_proxy"], by_uv["SSL_CERT_FILE"]) == ("http://mine:1", "/lab/ca.pem")
    assert not {"HTTP_X"} & by_uv.keys()
    assert not {"https_proxy", "SSL_CERT_FILE"} & plain.keys()


FAKE_UV = """#!/bin/sh
mkdir -p "$UV_PROJECT_ENVIRONMENT/lib/python3.11/site-packages/numpy-2.1.0.dist-info"
echo "version = 3.11.9" > "$UV_PROJECT_ENVIRONMENT/pyvenv.cfg"
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


def test_what_uv_made_for_the_run_is_told_with_its_end(
    project: Path, server: FakeServer, agent: AgentProcess
) -> None:
    (project / "bin" / "uv").write_text(FAKE_UV)
    agent.start()
    order = server.order(
        python="uv",
        command=["echo", "ran"],
        working_directory=str(project),
        environment={"PATH": f"{project}/bin:/usr/bin:/bin"},
    )

    told = server.wait_event(order["id"], "exited")

    assert told["exit_code"] == 0
    assert told["environment"]["packages"] == ["numpy==2.1.0"]
    assert told["environment"]["python"] == "3.11.9"
    folder = agent.run_dir(order["project"])
    assert (folder / f"{order['run_name']}.log").read_text() == "ran\n"
    assert "- numpy==2.1.0" in (folder / f"{order['run_name']}.yaml").read_text()
