"""What a job sees: variables, command, folder, interpreter."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from agent import environment, host, interpreters, users, wire
from agent.environment import Launch, Places
from agent.errors import StartFailed
from tests.agent.server import make_order

GPUS = {"GPU-a": 0, "GPU-b": 1}
ENVIRON = {
    "PATH": "/agent/venv/bin:/usr/bin:/bin",
    "VIRTUAL_ENV": "/agent/venv",
    "PYTHONPATH": "/agent",
    "LAB_ENROLL_CODE": "secret",
    "LANG": "ko_KR.UTF-8",
    "SHELL": "/bin/bash",
}


def launch(tmp_path: Path, config: Path | None = None, **fields: Any) -> Launch:
    order = wire.decode(wire.AttemptOrder, make_order(run_name="run_007", **fields))
    run_dir = tmp_path / "logs_lab" / "digits"
    places = Places(run_dir, "run_007", config, None)
    return environment.launch(order, places, tmp_path, GPUS, users.own(), ENVIRON)


def test_a_job_sees_the_documented_variables_and_nothing_of_the_agents(tmp_path: Path) -> None:
    variables = launch(tmp_path, environment={"WANDB_MODE": "offline"}).variables

    run_dir = str(tmp_path / "logs_lab" / "digits")
    assert set(variables) == {
        *("HOME", "USER", "SHELL", "LANG", "PATH", "WANDB_MODE"),
        *("LAB_RUN_DIR", "LAB_RUN_NAME", "LAB_METRICS_CSV", "LAB_CHECKPOINT", "LAB_PROJECT"),
        *("LAB_EXPERIMENT_UID", "LAB_ATTEMPT", "LAB_ATTEMPT_ID"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LAB_GPU_INDICES"),
        *("PYTHONUNBUFFERED", "PYTHONPATH", "MASTER_PORT", "PET_MASTER_PORT"),
    }
    assert variables["PYTHONPATH"] == f"{run_dir}/.labrun"
    assert variables["PATH"] == "/usr/bin:/bin"
    assert variables["LANG"] == "ko_KR.UTF-8"
    assert variables["LAB_RUN_DIR"] == run_dir
    assert variables["LAB_METRICS_CSV"] == f"{run_dir}/run_007.csv"
    assert variables["LAB_CHECKPOINT"] == f"{run_dir}/run_007.pt"
    assert variables["CUDA_VISIBLE_DEVICES"] == ""
    assert variables["MASTER_PORT"] == variables["PET_MASTER_PORT"]


def test_a_job_on_simulated_gpus_sees_none_and_knows_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GPUS, "SIM-m-1", 1)

    for gpu_ids in ("uuid", "index"):
        made = launch(tmp_path, command=["/bin/true"], gpus=["SIM-m-1"], gpu_ids=gpu_ids).variables
        assert (made["CUDA_VISIBLE_DEVICES"], made["LAB_GPU_INDICES"]) == ("", "1")


def test_the_order_of_laying_variables_together(tmp_path: Path) -> None:
    wished = {"PATH": "/opt/tools/bin", "LAB_PROJECT": "forged", "A": "job"}

    variables = launch(
        tmp_path, command=["/bin/true"], environment=wished, secrets={"A": "secret"}
    ).variables

    assert variables["PATH"] == "/opt/tools/bin"
    assert variables["A"] == "secret"
    assert variables["LAB_PROJECT"] == "digits"


@pytest.mark.parametrize(("gpu_ids", "visible"), [("uuid", "GPU-b,GPU-a"), ("index", "1,0")])
def test_it_sees_the_gpus_it_holds(tmp_path: Path, gpu_ids: str, visible: str) -> None:
    variables = launch(tmp_path, gpus=["GPU-b", "GPU-a"], gpu_ids=gpu_ids).variables

    assert variables["CUDA_VISIBLE_DEVICES"] == visible
    assert variables["LAB_GPU_INDICES"] == "1,0"
    assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_only_three_braces_are_replaced(tmp_path: Path) -> None:
    config = tmp_path / "{run_name}.yaml"
    command = ["true", "--c={config}", "{run_dir}/x", "{run_name}", "{lr}", "{", "{config"]

    arguments = launch(tmp_path, config, command=command).arguments

    assert arguments[1] == f"--c={config}"
    assert arguments[2] == f"{tmp_path}/logs_lab/digits/x"
    assert arguments[3:] == ["run_007", "{lr}", "{", "{config"]


def test_a_command_that_names_a_config_needs_one(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="no config file"):
        launch(tmp_path, command=["true", "{config}"])


def test_a_venv_comes_first_in_path(tmp_path: Path) -> None:
    venv = make_prefix(tmp_path / "venv")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    torch = venv / "lib/python3.11/site-packages/torch"
    torch.mkdir(parents=True)
    (torch / "version.py").write_text("__version__ = '2.6.0+cu124'\n")

    made = launch(tmp_path, python=str(venv), command=["python", "train.py"])

    assert made.executable == str(venv / "bin" / "python")
    assert made.variables["VIRTUAL_ENV"] == str(venv)
    assert made.variables["PATH"].startswith(f"{venv}/bin:")
    assert made.interpreter is not None
    assert made.interpreter.python_version() == "3.11.7"
    assert made.interpreter.torch_version() == "2.6.0+cu124"


def test_a_venv_may_be_named_from_where_the_command_runs(tmp_path: Path) -> None:
    venv = make_prefix(tmp_path / "code" / ".venv")

    made = launch(
        tmp_path, python="./.venv", working_directory="code", command=["python", "train.py"]
    )

    assert made.executable == str(venv / "bin" / "python")


def test_a_conda_environment_is_found_by_its_name(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "conda" / "envs" / "vision")
    (prefix / "conda-meta").mkdir()
    (prefix / "conda-meta" / "python-3.10.4-h12debd9_0.json").touch()

    found = interpreters.find(
        "vision", {"CONDA_EXE": f"{tmp_path}/conda/bin/conda"}, tmp_path, users.own()
    )

    assert found.prefix == prefix
    assert found.variables["CONDA_PREFIX"] == str(prefix)
    assert found.python_version() == "3.10.4"


def test_a_working_directory_is_relative_to_the_source_or_to_home(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()

    assert launch(tmp_path).directory == tmp_path
    assert launch(tmp_path, working_directory="code").directory == tmp_path / "code"
    assert launch(tmp_path, working_directory="~").directory == host.home()


def test_a_script_beside_the_working_directory_may_be_named_by_its_path(tmp_path: Path) -> None:
    script = tmp_path / "go.sh"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(StartFailed, match="not executable"):
        launch(tmp_path, command=["./go.sh"])
    script.chmod(0o755)

    assert Path(launch(tmp_path, command=["./go.sh"]).executable) == script


def test_another_unix_user_is_refused_unless_root_allowed_it() -> None:
    with pytest.raises(StartFailed, match="--run-as submitter"):
        users.of_order("somebody-else", as_submitter=False)


def make_prefix(prefix: Path) -> Path:
    (prefix / "bin").mkdir(parents=True)
    os.symlink(sys.executable, prefix / "bin" / "python")
    return prefix
