"""A job's YAML: what is read, what is refused and in which words, and what passes untouched."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire import MAX_CONFIG_BYTES
from experiments.config import ConfigInvalid, JobSpec, Options, layered, options_of, parse
from tests.experiments.wrong import BLOCKS, FILES, FOR_A_SHELL, hostile

COMMAND = "lab: {command: [python, train.py]}\n"


def mistakes(text, **kwargs):
    with pytest.raises(ConfigInvalid) as refused:
        parse(text, **kwargs)
    return refused.value.facts["errors"]


def mistake(text, **kwargs):
    [only] = mistakes(text, **kwargs)
    return only


def lab(block):
    return parse(f"lab:\n  command: [python, train.py]\n  {block}\n")


def wrong(block):
    """The one mistake of a lab block, whose keys begin on line 3."""
    return mistake(f"lab:\n  command: [python, train.py]\n  {block}\n")


# --- what passes through -------------------------------------------------------------------------


def test_the_file_is_kept_byte_for_byte():
    text = "\ufefflr:   0.10   # tuned\r\nname: café\r\n".encode() + COMMAND.encode()

    assert parse(text).config == text


def test_the_experiments_own_keys_are_read_as_json_for_tables():
    spec = parse(
        "lr: 1e-3\nepochs: 20\naugment: yes\nlayers: [64, 128]\nseed: ~\nwhen: 2024-01-01\n"
        "limit: .inf\nid: 0xffffffffffffffffffff\noptimizer: {name: adam}\n1: one\n" + COMMAND
    )

    assert spec.keys == {
        "lr": 0.001,
        "epochs": 20,
        "augment": True,
        "layers": [64, 128],
        "seed": None,
        "when": "2024-01-01",
        "limit": ".inf",
        "id": "0xffffffffffffffffffff",
        "optimizer": {"name": "adam"},
        "1": "one",
    }


def test_unknown_tags_are_kept_and_never_constructed():
    spec = parse(
        "size: !!python/tuple [3, 4]\n"
        "run: !!python/object/apply:os.system ['exit 3']\n"
        "home: !env HOME\n" + COMMAND
    )

    assert spec.keys == {"size": [3, 4], "run": ["exit 3"], "home": "HOME"}


def test_what_a_database_cannot_store_is_replaced_in_tables_only():
    text = 'a: "x\\0y"\n' + COMMAND

    spec = parse(text)

    assert spec.keys == {"a": "x\ufffdy"}
    assert spec.config == text.encode()


def test_anchors_and_merge_keys_are_followed():
    spec = parse(
        "base: &base {lr: 0.1, momentum: 0.9}\nrun: {<<: *base, lr: 0.2}\n"
        "two: {<<: [{a: 1}, {a: 2, b: 2}]}\n" + COMMAND
    )

    assert spec.keys["run"] == {"lr": 0.2, "momentum": 0.9}
    assert spec.keys["two"] == {"a": 1, "b": 2}


@pytest.mark.parametrize("text", [None, "", b"", " \r\n"])
def test_a_job_needs_no_yaml(text):
    spec = parse(text, given={"project": "digits", "command": "python train.py"})

    assert (spec.config, spec.keys, spec.project) == (b"", {}, "digits")
    assert spec.command == ["python", "train.py"]


def test_a_file_of_comments_only_is_a_config_without_keys():
    spec = parse("# nothing yet\n", given={"command": ["train", "{config}"]})

    assert spec.config == b"# nothing yet\n"
    assert spec.keys == {}


# --- the lab block -------------------------------------------------------------------------------


def test_every_key_of_the_lab_block_is_read():
    spec = parse(
        """
lr: 0.1
lab:
  project: digits
  name: baseline, seed 1
  command: [python, train.py, --config, "{config}", --lr, 0.10, '{"a": 1}', yes]
  environment: {SEED: 1, RATE: 0.10, EMPTY: "", MODE: "yes"}
  python: /opt/venvs/torch
  working_directory: /home/kim/code
  resources:
    gpus: 2
    gpu_memory: 24GiB
    gpu_type: A100
    labels: {room: b104, nvlink: true}
  priority: high
  time_limit: 1h30m
  stop_grace: 90s
  max_attempts: 5
  on_device_lost: requeue
  tags: [baseline, resnet, baseline]
  outputs: [lightning_logs/**, runs/**, .hydra/**]
  ignore: ["*.tmp", wandb/**/media]
  sync: {checkpoints: last, max_file: 5GB}
  secrets: [HF_TOKEN, WANDB_API_KEY, HF_TOKEN]
  requires: {paths: [/data/imagenet, ~/data], commands: [ffmpeg]}
"""
    )

    assert spec == JobSpec(
        config=spec.config,
        keys={"lr": 0.1},
        project="digits",
        name="baseline, seed 1",
        command=["python", "train.py", "--config", "{config}", "--lr", "0.10", '{"a": 1}', "yes"],
        environment={"SEED": "1", "RATE": "0.10", "EMPTY": "", "MODE": "yes"},
        python="/opt/venvs/torch",
        working_directory="/home/kim/code",
        gpus=2,
        gpu_memory_bytes=24 * 2**30,
        gpu_type="A100",
        labels={"room": "b104", "nvlink": "true"},
        priority="high",
        time_limit_seconds=5400,
        stop_grace_seconds=90,
        max_attempts=5,
        on_device_lost="requeue",
        tags=["baseline", "resnet"],
        outputs=["lightning_logs/**", "runs/**", ".hydra/**"],
        ignore=["*.tmp", "wandb/**/media"],
        sync={"checkpoints": "last", "max_file_bytes": 5 * 10**9},
        secrets=["HF_TOKEN", "WANDB_API_KEY"],
        requires={"paths": ["/data/imagenet", "~/data"], "commands": ["ffmpeg"]},
    )


def test_what_nobody_said_has_the_built_in_value():
    spec = parse(COMMAND)

    assert (spec.gpus, spec.priority, spec.max_attempts) == (1, "normal", 3)
    assert (spec.stop_grace_seconds, spec.on_device_lost) == (30, "wait")
    assert (spec.python, spec.working_directory, spec.time_limit_seconds) == (None, None, None)
    assert (spec.environment, spec.labels, spec.tags) == ({}, {}, [])
    assert (spec.outputs, spec.ignore) == ([], [])
    assert (spec.secrets, spec.requires) == ([], {})
    assert spec.sync == {"checkpoints": "all", "max_file_bytes": 20 * 10**9}


def test_what_is_said_of_the_sync_is_laid_together_key_by_key():
    defaults = Options(sync={"checkpoints": "none", "max_file_bytes": 7}, outputs=["runs/**"])

    spec = parse(
        "lab: {command: [x], sync: {checkpoints: last}}", defaults_of=lambda project: defaults
    )

    assert spec.sync == {"checkpoints": "last", "max_file_bytes": 7}
    assert spec.outputs == ["runs/**"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("24GiB", 24 * 2**30), ("24 gb", 24 * 10**9), ("1.5TiB", 3 * 2**39), ("512MiB", 2**29)],
)
def test_sizes_have_units(text, expected):
    assert lab(f"resources: {{gpu_memory: {text}}}").gpu_memory_bytes == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2h", 7200), ("90m", 5400), ("1d", 86_400), ("1h30m", 5400), ("1.5h", 5400), ("45 s", 45)],
)
def test_durations_have_units(text, expected):
    assert lab(f"time_limit: {text}").time_limit_seconds == expected


@pytest.mark.parametrize(("block", "sentence"), BLOCKS)
def test_a_mistake_is_named_with_its_line_and_what_to_write(block, sentence):
    found = wrong(block)

    assert sentence in found["message"]
    assert found["line"] == 3
    assert found["column"] >= 3


def test_words_that_only_look_like_secrets_are_allowed():
    spec = lab("environment: {PAD_TOKEN: x, MAX_TOKENS: 5, TOKENIZERS_PARALLELISM: 'false'}")

    assert set(spec.environment) == {"PAD_TOKEN", "MAX_TOKENS", "TOKENIZERS_PARALLELISM"}


def test_all_mistakes_are_named_at_once_in_the_files_order():
    found = mistakes(
        "lr: 1\n"
        "lab:\n"
        "  command: python train.py\n"
        "  time_limit: 120\n"
        "  environment: {LAB_A: 1, DEBUG: yes}\n"
        "  resources: {gpus: many}\n"
        "lr: 2\n"
    )

    assert [(m["line"], m["field"]) for m in found] == [
        (4, "lab.time_limit"),
        (5, "lab.environment"),
        (5, "lab.environment"),
        (6, "lab.resources.gpus"),
        (7, ""),
    ]


def test_the_refusal_is_a_400_whose_message_begins_with_the_first_mistake():
    with pytest.raises(ConfigInvalid) as refused:
        parse("lab: {command: [x], tags: a, priority: b}")

    assert (refused.value.status, refused.value.code) == (400, "invalid_config")
    assert str(refused.value).startswith("line 1, column 27: tags: write a list")
    assert str(refused.value).endswith("(and 1 more)")
    json.dumps(refused.value.facts, allow_nan=False)


def test_an_empty_value_says_nothing():
    assert lab("time_limit:").time_limit_seconds is None


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("python train.py --lr 0.1", ["python", "train.py", "--lr", "0.1"]),
        ("python train.py --config {config} {x}", ["python", "train.py", "--config", "{config}"]),
        ("python train.py 'a b' \"c d\"", ["python", "train.py", "a b", "c d"]),
        ("python train.py --filter '*.png'", ["python", "train.py", "--filter", "*.png"]),
        ("python train.py layers=[1,2]", ["python", "train.py", "layers=[1,2]"]),
    ],
)
def test_a_command_line_without_shell_syntax_is_split_into_words(line, words):
    spec = parse("a: 1", given={"command": line})

    assert spec.command[: len(words)] == words


@pytest.mark.parametrize("line", FOR_A_SHELL)
def test_a_command_line_for_a_shell_is_refused_with_the_list_to_write(line):
    found = mistake(None, given={"command": line})

    assert f"write [bash, -lc, '{line}']" in found["message"]


def test_several_lines_are_refused_as_a_command():
    found = mistake("lab:\n  command: |\n    cd code\n    python train.py\n")

    assert "several lines mean something to a shell" in found["message"]
    assert found["line"] == 2


def test_a_variable_before_the_command_belongs_to_the_environment():
    found = mistake(None, given={"command": "SEED=1 python train.py"})

    assert "write SEED under environment:" in found["message"]


def test_a_quotation_that_is_not_closed_is_refused():
    assert "not closed" in mistake(None, given={"command": "python 'train.py"})["message"]


def test_bash_may_be_asked_for():
    spec = parse("lab: {command: [bash, -lc, 'cd code && python train.py > {run_dir}/out']}")

    assert spec.command == ["bash", "-lc", "cd code && python train.py > {run_dir}/out"]


@pytest.mark.parametrize("command", ["[]", "['']", "''", "[' ', a]"])
def test_an_empty_command_is_refused(command):
    assert "empty" in mistake(f"lab: {{command: {command}}}")["message"]


def test_a_config_without_a_command_is_told_where_to_put_it():
    found = mistake("lr: 0.1\n")

    assert "write one under lab: in the file (command: [python, train.py" in found["message"]


def test_a_command_that_names_the_config_needs_one():
    found = mistake(None, given={"command": "python train.py {config}"})

    assert "there is no YAML" in found["message"]


def test_a_nul_in_a_command_is_refused():
    assert "no program can be given" in mistake('lab: {command: [a, "b\\0"]}')["message"]


# --- layers --------------------------------------------------------------------------------------


def test_what_was_given_goes_before_the_file_and_the_file_before_the_project():
    spec = parse(
        "lab: {command: [file], priority: low, time_limit: 1h, environment: {A: file, B: file}}",
        given={"priority": "high", "environment": {"A": "given"}},
        defaults_of=lambda project: Options(
            priority="urgent",
            time_limit_seconds=60.0,
            gpus=4,
            environment={"B": "project", "C": "project"},
        ),
    )

    assert spec.priority == "high"
    assert spec.time_limit_seconds == 3600
    assert spec.gpus == 4
    assert spec.environment == {"A": "given", "B": "file", "C": "project"}


def test_the_projects_command_serves_a_config_without_one():
    spec = parse("lr: 1", defaults_of=lambda _: Options(command=["train", "{config}"]))

    assert spec.command == ["train", "{config}"]


@pytest.mark.parametrize(
    ("text", "given", "project", "name"),
    [
        ("project: own\nname: mine\n", {}, "own", "mine"),
        ("project: own\nname: mine\nlab: {project: block}\n", {}, "block", "mine"),
        ("project: own\nlab: {name: block}\n", {"project": "form"}, "form", "block"),
        ("project: {root: x}\nname: 3\n", {}, None, None),
        ("project: /data/x\n", {}, None, None),
    ],
)
def test_project_and_name_come_from_form_or_file(text, given, project, name):
    asked = []

    spec = parse(
        text,
        given=given,
        defaults_of=lambda project: asked.append(project) or Options(command=["true"]),
    )

    assert (spec.project, spec.name) == (project, name)
    assert asked == [project]


def test_a_job_without_gpus_drops_the_projects_wish_for_a_kind_of_gpu():
    spec = parse(
        "lab: {command: [x], resources: {gpus: 0}}",
        defaults_of=lambda _: Options(gpu_type="A100", gpu_memory_bytes=2**30),
    )

    assert (spec.gpus, spec.gpu_type, spec.gpu_memory_bytes) == (0, None, None)


def test_the_devices_part_lies_beneath_job_and_project():
    job = Options(environment={"A": "job"})
    project = Options(python="torch", environment={"A": "project", "B": "project"})
    device = Options(python="/opt/venv", working_directory="/code", environment={"C": "device"})

    merged = layered(job, project, device)

    assert (merged.python, merged.working_directory) == ("torch", "/code")
    assert merged.environment == {"A": "job", "B": "project", "C": "device"}


def test_stored_defaults_pass_the_same_checks_without_lines():
    options = options_of({"resources": {"gpus": 2, "gpu_memory": "24GiB"}, "time_limit": "2h"})

    assert (options.gpus, options.gpu_memory_bytes, options.time_limit_seconds) == (
        2,
        24 * 2**30,
        7200,
    )
    with pytest.raises(ConfigInvalid) as refused:
        options_of({"resources": {"gpu_memory": 24}})
    assert refused.value.facts["errors"] == [
        {
            "line": None,
            "column": None,
            "field": "resources.gpu_memory",
            "message": "gpu_memory: 24 has no unit: write 24GiB, or MiB, or GB",
        }
    ]


# --- files that are not YAML, or were made to hurt -----------------------------------------------


@pytest.mark.parametrize(("text", "line", "column", "sentence"), FILES)
def test_a_file_that_cannot_be_read_is_named_with_its_place(text, line, column, sentence):
    found = mistake(text, given={"command": "true"})

    assert sentence in found["message"]
    assert (found["line"], found["column"]) == (line, column)


@pytest.mark.parametrize("name", hostile())
def test_a_small_file_cannot_become_a_large_one(name):
    assert len(mistakes(hostile()[name], given={"project": "p"})) <= 51


def test_a_number_of_a_megabyte_stays_text():
    digits, sexagesimal = "9" * 500_000, "1:" * 200_000 + "1"

    spec = parse(f"a: {digits}\nb: {sexagesimal}\n{COMMAND}")

    assert spec.keys == {"a": digits, "b": sexagesimal}


def test_a_config_above_the_limit_is_refused():
    found = mistake(b"#" * (MAX_CONFIG_BYTES + 1), given={"command": "true"})

    assert str(MAX_CONFIG_BYTES) in found["message"]


YAML_LIKE = st.lists(
    st.sampled_from(
        ["lab", ":", " ", "\n", "  ", "- ", "{", "}", "[", "]", ",", "&a ", "*a", "<<: ", "!!int ",
         "!x ", "command", "resources", "gpus", "environment", "time_limit", "tags", "'", '"', "1",
         "1e3", ".nan", "~", "yes", "2h", "24GiB", "|", ">", "#", "\t", "? ", "---", "\\0", "\r\n",
         "LAB_X", "0x", "1:2", "\ufeff", "é", "%"]
    ),
    max_size=40,
).map("".join)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
WORDS = st.sampled_from(["command", "environment", "resources", "tags", "time_limit", "name"])


@settings(max_examples=300, deadline=None)
@given(
    st.binary() | st.text() | YAML_LIKE | YAML_LIKE.map(lambda text: f"lab:\n  {text}"),
    st.dictionaries(WORDS | st.text(), JSON, max_size=3),
)
def test_anything_is_a_job_or_a_refusal(text, said):
    try:
        spec = parse(text, given=said)
    except ConfigInvalid as refused:
        json.dumps([str(refused), refused.facts], allow_nan=False)
    else:
        assert spec.command
        json.dumps(spec.keys, allow_nan=False).encode()
        "\0".join(spec.command).encode()
