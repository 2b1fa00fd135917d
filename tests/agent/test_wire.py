"""The wire: whatever arrives is a message or Malformed, and what is sent arrives the same."""

import dataclasses
import json
import math
import os
import unicodedata
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import wire
from agent.wire import Malformed, decode, dumps, loads

MESSAGES = [
    value
    for value in vars(wire).values()
    if is_dataclass(value) and value not in (wire.Range, wire.Text, wire.Items, wire.Else)
]
BEAT = {
    "instance_id": "i1",
    "boot_id": "b1",
    "seq": 1,
    "agent_version": "1",
    "interval_seconds": 1.0,
}


# --- a strategy for each message, made of its own type hints ------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)
FINITE = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | TEXT


def valid(hint: Any) -> st.SearchStrategy[Any]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return limited(args[0], args[1:])
    if origin in (Union, UnionType):
        return st.one_of(*[st.none() if arg is type(None) else valid(arg) for arg in args])
    if origin is list:
        return st.lists(valid(args[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(TEXT, valid(args[1]), max_size=3)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    if is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        return st.builds(hint, **{field.name: valid(hints[field.name]) for field in fields(hint)})
    return {
        str: TEXT,
        int: st.integers(0, 2**62),
        bool: st.booleans(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        Any: FINITE,
    }[hint]


def limited(inner: Any, limits: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    [limit] = limits
    if isinstance(limit, wire.Items | wire.Else):
        return valid(inner)
    if isinstance(limit, wire.Range) and inner is int:
        return st.integers(int(limit.low), int(limit.high))
    if isinstance(limit, wire.Range):
        return st.floats(limit.low, limit.high)
    if limit.pattern:
        return st.from_regex(limit.pattern, fullmatch=True)
    return TEXT


def required(message: type) -> list[str]:
    return [
        field.name
        for field in fields(message)
        if field.default is MISSING and field.default_factory is MISSING
    ]


# --- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("message", MESSAGES, ids=lambda cls: cls.__name__)
def test_a_message_that_was_sent_arrives_the_same(message):
    @settings(max_examples=25, deadline=None)
    @given(valid(message))
    def arrives(sent):
        assert decode(message, loads(dumps(sent))) == sent

    arrives()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda cls: cls.__name__)
def test_whatever_arrives_is_a_message_or_malformed(message):
    known = {field.name: JSON for field in fields(message)}

    @settings(max_examples=40, deadline=None)
    @given(JSON | st.fixed_dictionaries({}, optional=known))
    def is_told_apart(data):
        try:
            arrived = decode(message, data)
        except Malformed as problem:
            assert str(problem)  # noqa: PT017 — either outcome is right; neither may be silent
        else:
            assert isinstance(arrived, message)

    is_told_apart()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda cls: cls.__name__)
def test_fields_of_a_later_version_are_ignored(message):
    @settings(max_examples=5, deadline=None)
    @given(valid(message))
    def is_read(sent):
        body = json.loads(dumps(sent)) | {"of_a_later_version": {"x": 1}}

        assert decode(message, body) == sent

    is_read()


@pytest.mark.parametrize(
    ("message", "name"),
    [(message, name) for message in MESSAGES for name in required(message)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_missing_field_is_named(message, name):
    @settings(max_examples=1, deadline=None)
    @given(valid(message))
    def is_named(sent):
        body = json.loads(dumps(sent))
        del body[name]

        with pytest.raises(Malformed) as refused:
            decode(message, body)
        assert (refused.value.field, refused.value.problem) == (name, "is missing")

    is_named()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda cls: cls.__name__)
def test_a_message_cannot_be_changed(message):
    assert message.__dataclass_params__.frozen


@pytest.mark.parametrize("message", MESSAGES, ids=lambda cls: cls.__name__)
def test_a_field_of_a_quantity_ends_in_its_unit(message):
    for field in fields(message):
        for quantity in ("memory", "disk", "size", "temperature", "power", "interval", "time"):
            if field.name.split("_")[0] == quantity:
                units = ("_bytes", "_celsius", "_watts", "_seconds", "_mhz")
                assert field.name.endswith(units), field.name


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path", "problem"),
    [
        ({"seq": True}, "seq", "must be an integer, not bool"),
        ({"seq": 1.0}, "seq", "must be an integer, not float"),
        ({"seq": -1}, "seq", "must lie between 0 and"),
        ({"seq": 2**63}, "seq", "must lie between 0 and"),
        ({"seq": "1"}, "seq", "must be an integer, not str"),
        ({"interval_seconds": math.nan}, "interval_seconds", "must be a finite number"),
        ({"interval_seconds": 10**400}, "interval_seconds", "must be a finite number"),
        ({"interval_seconds": True}, "interval_seconds", "must be a finite number"),
        ({"interval_seconds": 61}, "interval_seconds", "must lie between 0.05 and 60"),
        ({"cpu_percent": 101}, "cpu_percent", "must lie between 0 and 100"),
        ({"instance_id": "a b"}, "instance_id", "must match"),
        ({"instance_id": "a" * 65}, "instance_id", "must have at most 64 characters"),
        ({"instance_id": None}, "instance_id", "must be a string, not NoneType"),
        ({"gpus": {}}, "gpus", "must be a list"),
        ({"gpus": [{}] * 65}, "gpus[0].uuid", "is missing"),
        ({"gpus": [{"uuid": "GPU-1", "index": 0, "name": 1}]}, "gpus[0].name", "must be a string"),
        ({"source": []}, "source", "must be an object"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(change, path, problem):
    with pytest.raises(Malformed) as refused:
        decode(wire.Heartbeat, BEAT | change)

    assert refused.value.field == path
    assert problem in refused.value.problem
    assert str(refused.value) == f"{path}: {refused.value.problem}"


def test_more_items_than_allowed_are_refused():
    card = {"uuid": "GPU-1", "index": 0, "name": "A100"}

    assert len(decode(wire.Heartbeat, BEAT | {"gpus": [card] * 64}).gpus) == 64
    with pytest.raises(Malformed, match="at most 64 items"):
        decode(wire.Heartbeat, BEAT | {"gpus": [card] * 65})


def test_a_word_that_is_not_of_an_enumeration_is_refused_with_those_that_are():
    with pytest.raises(Malformed, match="must be one of accepted, starting, running, exited"):
        decode(wire.AttemptReport, {"id": "a", "state": "paused"})


def test_a_reason_of_a_later_version_is_read_as_another_one():
    """Or a server that is older than its agents would take no poll of theirs."""
    report = {"id": "a", "state": "running", "left_out": [{"name": "x", "reason": "of_tomorrow"}]}

    [left_out] = decode(wire.AttemptReport, report).left_out

    assert left_out.reason is wire.WhyLeftOut.OTHER
    with pytest.raises(Malformed, match=r"left_out\[0\].reason: must be one of not_wished"):
        decode(wire.AttemptReport, report | {"left_out": [{"name": "x", "reason": 1}]})


def test_an_optional_field_may_be_null_or_left_out():
    assert decode(wire.Heartbeat, BEAT) == decode(wire.Heartbeat, BEAT | {"cpu_percent": None})


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"a": NaN}', "NaN is not allowed"),
        (b'{"a": -Infinity}', "-Infinity is not allowed"),
        (b'{"a": 1e999}', "1e999 is not allowed"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"a": "\\u0000"}', "a NUL character is not allowed"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_not_strict_json_is_refused(body, problem):
    with pytest.raises(Malformed, match=problem):
        loads(body)


@settings(max_examples=200, deadline=None)
@given(st.binary() | st.text())
def test_any_bytes_are_json_or_malformed(body):
    try:
        data = loads(body)
    except Malformed:
        return
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_the_text_of_an_escape_is_text():
    assert loads(b'"\\\\u0000"') == "\\u0000"


def test_a_character_written_as_a_pair_is_one_character():
    assert loads(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_a_number_that_cannot_be_said_in_json_is_not_sent():
    beat = dataclasses.replace(decode(wire.Heartbeat, BEAT), interval_seconds=math.inf)

    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps(beat)


@pytest.mark.parametrize("name", ["run_001.csv", "a", "A-b.c_d", "0", "x" * 128])
def test_names_of_files_and_folders(name):
    assert wire.is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "a\\b", "a..b", "a b", "a\n", "é", "-x", "x" * 129, "a\0"],
)
def test_what_could_leave_its_folder_is_no_name(name):
    assert not wire.is_name(name)


@pytest.mark.parametrize(
    "part",
    [
        "epoch=5-step=10.ckpt",
        "model-best (1).pt",
        "a b+c,d@e[0].png",
        "실험 결과.csv",
        "é.txt",
        ".hydra",
        "a..b",
        "100%.txt",
        "what?#&'\".json",
        "가" * 77,
    ],
)
def test_artifacts_may_be_called_what_scripts_call_their_files(part):
    assert wire.is_file_of("run_001", f"run_001/{part}")
    assert wire.is_file_of("run_001", f"run_001/{part}/{part}")
    assert not wire.is_file_of("run_001", f"run_002/{part}")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "run_001",
        "run_001/",
        "run_001//a",
        "/run_001/a",
        "run_001/../a",
        "run_001/./a",
        "run_001/a/..",
        "run_001/a\\b",
        "run_001/a\nb",
        "run_001/a\0b",
        "run_001/a\x7fb",
        "run_001/\u202egnp.exe",
        "run_001/a\u200b",
        "run_001/a\u2028",
        "run_001/\ud800",
        "run_001/e\u0301",
        "run_001/-rf",
        "run_001/ a",
        "run_001/a ",
        "run_001/.a.0123456789ab.part",
        "run_001/a.csv.g3",
        "run_001/a.g1/b",
        "run_001/" + "가" * 78,
        "run_001/" + "/".join(["a" * 100] * 6),
        "run_001.epoch=5.pt",
        "run_001.실험",
        "run_001.csv.g2",
        "run_0011.csv",
    ],
)
def test_what_could_mislead_names_no_file_of_a_run(path):
    assert not wire.is_file_of("run_001", path)


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(codec=None), max_size=60))
def test_whatever_names_an_artifact_stays_in_its_folder(part):
    if not wire.is_file_of("run_001", f"run_001/{part}"):
        return

    path = os.path.normpath(f"/logs/run_001/{part}")

    assert path == f"/logs/run_001/{part}"
    assert unicodedata.normalize("NFC", part) == part
    assert all(32 <= ord(character) != 127 for character in part)
    assert len(os.fsencode(part + f".g{2**62}")) <= 255 or "/" in part


@pytest.mark.parametrize(
    ("name", "grows", "as_text"),
    [
        ("run_001.csv", True, True),
        ("run_001/out/train.txt", True, True),
        ("run_001/slurm-17.out", True, True),
        ("run_001/tb/events.out.tfevents.1709287200.gpu-01.4711.0", True, False),
        ("run_001/tb/events.out.tfevents.1709287200.gpu-01.4711.0.v2", True, False),
        ("run_001/tb/events.out.tfevents.1709287200.gpu-01.4711.0.log", True, True),
        ("run_001/events.out.tfevents.1/picture.png", False, False),
        ("run_001/checkpoint-500/vocab.txt", False, False),
        ("run_001/checkpoint-500/trainer_log.jsonl", True, True),
        ("run_001/checkpoint-500/samples/1.txt", True, True),
        ("run_001/trainer_state.json", False, False),
        ("run_001.pt", False, False),
        ("run_001.yaml", False, False),
    ],
)
def test_what_grows_is_told_by_its_name(name, grows, as_text):
    assert wire.is_file_of("run_001", name)
    assert (wire.grows(name), wire.is_growing_text(name)) == (grows, as_text)


def test_an_attempt_is_alive_until_its_process_is_gone():
    alive = {state for state in wire.AttemptState if state.alive}

    assert alive == set(wire.AttemptState) - {wire.AttemptState.EXITED}


def test_a_job_is_fenced_well_before_the_server_gives_it_up():
    assert wire.FENCE_SECONDS + wire.MAX_WAIT_SECONDS < wire.LEASE_SECONDS
