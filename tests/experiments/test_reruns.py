"""The same run with other values: in its config, in its command, and never anywhere else."""

import pytest

from experiments import arguments, discreet, reruns, submission
from experiments.errors import NotSubmitted
from experiments.models import Job
from experiments.sweeps import points_of
from experiments.sweeps import submit as submit_sweep
from experiments.yamltree import ConfigInvalid
from tests import make

pytestmark = pytest.mark.django_db
TRAIN = ["python", "train.py"]
CONFIG = "# ours\nlr: 0.1  # the rate\nmodel: {depth: 18}\n"


@pytest.mark.parametrize(
    ("command", "values", "made"),
    [
        ([], {"lr": 0.1}, ["--lr", "0.1"]),
        (["--lr", "1", "--wd", "2"], {"lr": 0.1}, ["--lr", "0.1", "--wd", "2"]),
        (["--lr=1", "x"], {"lr": 0.1}, ["--lr=0.1", "x"]),
        (["lr=1", "lr_decay=2"], {"lr": 0.1}, ["lr=0.1", "lr_decay=2"]),
        (["--lr", "-1e-3"], {"lr": 0.1}, ["--lr", "0.1"]),
        (["--lr", "1"], {"lr": -1e-5}, ["--lr=-1e-05"]),
        (["--amp", "--lr", "1"], {"amp": True}, ["--amp", "true", "--lr", "1"]),
        (["--amp"], {"amp": False}, ["--amp", "false"]),
        (["--lr", "1", "--lr", "2"], {"lr": 3}, ["--lr", "1", "--lr", "3"]),
        (["--lrs", "1"], {"lr": 3}, ["--lrs", "1", "--lr", "3"]),
        ([], {"opt": "adam w", "sizes": [1, 2]}, ["--opt", "adam w", "--sizes", "[1, 2]"]),
        ([], {"model.depth": 18, "seed": 0}, ["--model.depth", "18", "--seed", "0"]),
    ],
)
def test_an_argument_is_replaced_where_it_stands_or_put_behind(command, values, made):
    assert arguments.with_values([*TRAIN, *command], values) == [*TRAIN, *made]


def test_the_program_itself_is_no_argument():
    assert arguments.with_values(["lr=1", "x"], {"lr": 2}) == ["lr=1", "x", "--lr", "2"]


def again(job: Job, **values) -> Job:
    spec = reruns.changed(submission.spec_of(job), values)
    return submission.rerun(job, by=job.user, spec=spec)


def test_a_key_of_the_config_is_set_in_its_text():
    job = make.job(config=CONFIG, command=[*TRAIN, "--config", "{config}"])

    made = again(job, lr=0.05, **{"model.depth": 50})

    assert bytes(made.config) == b"# ours\nlr: 0.05  # the rate\nmodel: {depth: 50}\n"
    assert made.keys == {"lr": 0.05, "model": {"depth": 50}}
    assert made.command == job.command
    assert made.parent == job


def test_a_config_with_what_looks_like_a_secret_is_set_in_as_any_other():
    config = "lr: 0.1\nwandb: {api_key: 0123456789abcdef}\n"

    made = again(make.job(config=config, command=[*TRAIN, "{config}"]), lr=0.05)

    assert bytes(made.config) == config.replace("0.1", "0.05").encode()
    assert made.keys == {"lr": 0.05, "wandb": {"api_key": discreet.MASK}}


def test_a_new_key_goes_into_the_config_that_somebody_wrote():
    made = again(make.job(config=CONFIG, command=[*TRAIN, "{config}"]), momentum=0.9)

    assert b"momentum: 0.9" in bytes(made.config)
    assert made.command == [*TRAIN, "{config}"]


def test_an_argument_is_set_in_the_command_and_not_in_the_config():
    made = again(make.job(config=CONFIG, command=[*TRAIN, "{config}", "--epochs", "3"]), epochs=9)

    assert made.command == [*TRAIN, "{config}", "--epochs", "9"]
    assert bytes(made.config) == CONFIG.encode()


def test_without_a_config_a_key_is_an_argument_and_a_column_of_the_table():
    made = again(make.job(command=[*TRAIN, "--lr", "0.1"]), lr=0.05, wd=1e-3)

    assert made.command == [*TRAIN, "--lr", "0.05", "--wd", "0.001"]
    assert made.keys == {"lr": 0.05, "wd": 0.001}


def test_a_run_of_a_plain_sweep_stays_one():
    sweep = submit_sweep(
        None,
        {"project": "p", "command": TRAIN, "sweep": {"grid": {"lr": [1]}, "arguments": True}},
        by=make.user(),
    )

    made = again(sweep.jobs.get(), lr=2, wd=3)

    assert made.command == [*TRAIN, "--lr", "2", "--wd", "3"]
    assert made.keys == {"lr": 2, "wd": 3}
    assert made.sweep is None


def test_an_argument_holds_nothing_that_an_agent_could_not_read():
    job = make.job(config=CONFIG, command=[*TRAIN, "{config}", "--note", "a"])

    made = again(job, note="a\0b\ud800c")

    assert made.command == [*TRAIN, "{config}", "--note", "a\ufffdb\ufffdc"]


def test_a_command_does_not_outgrow_what_one_may_have():
    job = make.job(command=[*TRAIN, "--note", "a"])

    with pytest.raises(NotSubmitted, match="longer than 65536 bytes"):
        again(job, note="a" * 70_000)


def test_what_was_asked_for_besides_stays():
    job = make.job(config=CONFIG, command=["a"], gpus=2, priority="high", tags=["t"], name="first")

    made = again(job, lr=3)

    assert (made.gpus, made.priority, made.tags, made.name) == (2, job.priority, ["t"], "first")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "nothing is changed"),
        ({"lr.x": 1}, "holds no keys"),
        ({"": 1}, "empty"),
        ({"lr": 1, "lr.x": 2}, "lr"),
        ({"lab.command": "x"}, "lab"),
        ({f"k{n}": n for n in range(40)}, "at most"),
    ],
)
def test_what_cannot_be_set_is_a_sentence_and_queues_nothing(values, says):
    job = make.job(config=CONFIG, command=["a"])

    with pytest.raises(NotSubmitted) as caught:
        again(job, **values)

    assert says in str(caught.value)
    assert "sweep" not in str(caught.value)
    assert Job.objects.count() == 1


# --- sweeps of plain commands ---------------------------------------------------------------


def points(given) -> list:
    spec = submission.read(given.pop("config", None), {"project": "p", **given})
    return list(points_of(spec, given))


def test_a_plain_commands_values_are_its_arguments_and_its_keys():
    made = points(
        {
            "command": [*TRAIN, "--lr", "9"],
            "sweep": {"grid": {"lr": [0.1, 0.01]}, "seeds": [0, 1], "arguments": True},
        }
    )

    assert [one.spec.command[2:] for one in made] == [
        ["--lr", "0.1", "--seed", "0"],
        ["--lr", "0.1", "--seed", "1"],
        ["--lr", "0.01", "--seed", "0"],
        ["--lr", "0.01", "--seed", "1"],
    ]
    assert made[-1].spec.keys == {"lr": 0.01, "seed": 1}


def test_a_sweep_of_a_config_leaves_the_command_alone():
    [one, _other] = points(
        {"config": CONFIG, "command": [*TRAIN, "{config}"], "sweep": {"grid": {"lr": [1, 2]}}}
    )

    assert one.spec.command == [*TRAIN, "{config}"]


def test_the_command_of_a_point_does_not_outgrow_what_one_may_have():
    sweep = {"grid": {"note": ["a" * 70_000, "b"]}, "arguments": True}

    with pytest.raises(ConfigInvalid, match="longer than 65536 bytes"):
        points({"command": TRAIN, "sweep": sweep})


@pytest.mark.parametrize("word", ["yes", 3, [True]])
def test_arguments_is_true_or_false(word):
    with pytest.raises(Exception, match=r"neither true nor false|must be text"):
        points({"command": TRAIN, "sweep": {"grid": {"lr": [1, 2]}, "arguments": word}})
