"""Sweeps: what is varied, what each run receives, how many run at a time, and the verbs."""

import threading

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import submission, sweeps
from experiments.config import ConfigInvalid
from experiments.deciding import changed_by
from experiments.dispatch import dispatch
from experiments.errors import IllegalTransition, LostRace, NotSubmitted, SweepNotEnded
from experiments.models import Job, JobEvent, Member, MemberRole, Project, Sweep
from experiments.models.event import change, record
from experiments.states import EventKind, JobState, Outcome, Priority
from experiments.yamledit import Editor
from labsite.clock import database_now
from people.errors import NotAllowed
from tests import make
from tests.waiting import until_somebody_waits_for_a_row

pytestmark = pytest.mark.django_db

CONFIG = """\
# Baseline of the paper
lr: 0.1        # tuned by hand
model: {name: resnet, depth: 18}

data:
  train:
    size: 128   # pixels
  folds:
  - 1
  - 2

lab:
  command: [python, train.py, --config, "{config}"]
  project: digits
  sweep:
    grid:
      lr: [0.10, 1e-3]
      model.depth: [18, 50]
    # so that others get a turn
    max_running: 2
  tags: [paper]
"""


def text_of(job: Job) -> str:
    return bytes(job.config).decode()


def swept(block: str, keys: str = "lr: 0.1\n") -> str:
    return f"{keys}lab:\n  command: [python]\n  project: digits\n  sweep: {block}\n"


def mistakes(text: str, **kwargs) -> list[dict]:
    with pytest.raises(ConfigInvalid) as refused:
        sweeps.submit(text, **kwargs)
    return refused.value.facts["errors"]


def runs(text: str) -> list[str]:
    """The configs that the runs of a sweep receive, without the block of the lab."""
    made = sweeps.submit(text)
    return [text_of(job).split("lab:")[0] for job in made.jobs.order_by("run_number")]


# --- what each run receives ---------------------------------------------------------------------


def test_each_run_has_its_values_in_a_copy_that_is_otherwise_the_same():
    sweep = sweeps.submit(CONFIG)

    jobs = list(sweep.jobs.order_by("run_number"))
    assert [job.swept for job in jobs] == [
        {"lr": 0.1, "model.depth": 18},
        {"lr": 0.1, "model.depth": 50},
        {"lr": 0.001, "model.depth": 18},
        {"lr": 0.001, "model.depth": 50},
    ]
    assert bytes(sweep.config) == CONFIG.encode()
    head, tail = CONFIG.split("  sweep:")[0], "  tags: [paper]\n"
    expected = head.replace("lr: 0.1 ", "lr: 1.0e-3 ").replace("depth: 18", "depth: 50")
    assert text_of(jobs[3]) == expected + tail
    assert jobs[3].keys["model"] == {"name": "resnet", "depth": 50}
    assert submission.read(jobs[3].config).sweep is None


def test_all_runs_are_queued_at_once_with_numbers_without_gaps():
    make.job()

    sweep = sweeps.submit(CONFIG, by=make.user("ann"))

    numbers = list(sweep.jobs.order_by("pk").values_list("run_number", flat=True))
    assert numbers == [2, 3, 4, 5]
    assert Project.objects.get().last_run == 5
    assert {job.user.username for job in sweep.jobs.all()} == {"ann"}
    assert JobEvent.objects.filter(job__sweep=sweep, kind="submitted").count() == 4
    assert (sweep.keys, sweep.max_running) == (["lr", "model.depth"], 2)


def test_a_refused_sweep_leaves_nothing():
    Project.named("digits", by=None).archive(database_now())

    with pytest.raises(Exception, match="archived"):
        sweeps.submit(CONFIG)

    assert (Job.objects.count(), Sweep.objects.count()) == (0, 0)
    assert Project.objects.get().last_run == 0


@pytest.mark.parametrize(
    ("keys", "block", "expected"),
    [
        ("lr: 0.1\n", "{seeds: [0, 1]}", ["seed: 0\nlr: 0.1\n", "seed: 1\nlr: 0.1\n"]),
        ("seed: 7\n", "{seeds: [0, 1]}", ["seed: 0\n", "seed: 1\n"]),
        ("m:\n", "{grid: {m.a: [1], m.b.c: [x]}}", ["m: {a: 1, b: {c: x}}\n"]),
        ("m: {}\n", "{grid: {m.a: [1], m.b: [x]}}", ["m: {a: 1, b: x}\n"]),
        ("m:\n  a: 1\n", "{grid: {m.b: [2]}}", ["m:\n  b: 2\n  a: 1\n"]),
        ("lr:\nb: 1\n", "{grid: {lr: [0.5]}}", ["lr: 0.5\nb: 1\n"]),
        ("f:\n- 1\n- 2\n# on\nb: 1\n", "{grid: {f: [[3, 4]]}}", ["f:\n [3, 4]\n# on\nb: 1\n"]),
        ("f:\n- 1\n- 2\n", "{grid: {f.1: [5]}}", ["f:\n- 1\n- 5\n"]),
        ("t: |\n  two\n  lines\nb: 1\n", "{grid: {t: [one]}}", ["t: one\nb: 1\n"]),
        ("a.b: 1\n", "{grid: {a.b: [2]}}", ["a.b: 2\n"]),
        ("x: &x 1\ny: *x\n", "{grid: {y: [2]}}", ["x: &x 1\ny: 2\n"]),
        ("n: 'a'\r\nb: 1\r\n", "{grid: {n: ['a, b']}}", ['n: "a, b"\r\nb: 1\r\n']),
        ("n: 'a'\n", "{grid: {n: [yes, 'yes']}}", ["n: yes\n", 'n: "yes"\n']),
        (
            "b: &b {lr: 1}\nr:\n  <<: *b\n  c: 1\n",
            "{grid: {r.lr: [2]}}",
            ["b: &b {lr: 1}\nr:\n  lr: 2\n  <<: *b\n  c: 1\n"],
        ),
        ("o: 1\n", "{list: [{o: {name: sgd, p: 1e5}}]}", ["o: {name: sgd, p: 1.0e+5}\n"]),
    ],
)  # fmt: skip
def test_a_key_is_set_where_it_stands_or_made(keys, block, expected):
    assert runs(swept(block, keys)) == expected


def test_entries_of_a_list_meet_each_point_of_the_grid():
    text = swept("{list: [{o: sgd, lr: 1}, {o: adam}], grid: {wd: [0, 1]}, seeds: [5]}")

    points = [job.swept for job in sweeps.submit(text).jobs.order_by("pk")]

    assert points == [
        {"o": "sgd", "lr": 1, "wd": 0, "seed": 5},
        {"o": "sgd", "lr": 1, "wd": 1, "seed": 5},
        {"o": "adam", "wd": 0, "seed": 5},
        {"o": "adam", "wd": 1, "seed": 5},
    ]


def test_the_block_goes_also_where_it_stands_in_braces_or_comes_from_a_form():
    inline = "a: 1\nlab: {command: [x], sweep: {grid: {a: [2]}}, project: p}\n"
    [only] = sweeps.submit(inline).jobs.all()
    assert text_of(only) == "a: 2\nlab: {command: [x], project: p}\n"

    wish = {"project": "p", "command": "x", "sweep": {"grid": {"a": [1e-05, True, "no", None]}}}
    sweep = sweeps.submit("a: 1\n", wish)
    texts = [text_of(job) for job in sweep.jobs.order_by("pk")]
    assert sweep.given == wish
    assert texts == ["a: 1.0e-05\n", "a: true\n", 'a: "no"\n', "a: null\n"]


def test_a_sweep_needs_no_yaml():
    wish = {"project": "p", "command": "x", "sweep": {"grid": {"lr": [1, 2]}}}

    assert [text_of(job) for job in sweeps.submit(None, wish).jobs.order_by("pk")] == [
        "lr: 1\n", "lr: 2\n",
    ]  # fmt: skip


plain = st.one_of(
    st.integers(-(10**6), 10**6), st.booleans(), st.none(), st.text(max_size=12),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)  # fmt: skip
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(value=values)
def test_whatever_value_is_given_is_read_again_as_that_value(value):
    wish = {"project": "p", "command": "x", "sweep": {"grid": {"a.b": [value]}}}
    spec = submission.read(CONFIG.split("lab:")[0], wish)

    try:
        [point] = sweeps.points_of(spec, wish)
    except ConfigInvalid:  # a character that YAML does not take
        return

    assert point.spec.keys["a"]["b"] == point.values["a.b"]


# --- what is refused, and where ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("{}", "it is empty"),
        ("{max_running: 2}", "it is empty"),
        ("{grid: {}}", "grid: it is empty"),
        ("{grid: {lr: []}}", "the list is empty"),
        ("{grid: {lr: 0.1}}", "write a list of values"),
        ("{grid: {lr: [1, 1]}}", "1 stands twice"),
        ("{list: [{lr: 1}, {lr: 1}]}", "stands twice"),
        ("{list: [{lr: 1}], grid: {lr: [2]}}", "varied twice"),
        ("{seeds: [1], grid: {seed: [2]}}", "varied twice"),
        ("{grid: {m: [1], m.a: [1]}}", "lies within"),
        ("{gird: {lr: [1]}}", "is not known here"),
        ("{grid: {lr: [1]}, max_running: 0}", "whole number from 1"),
        ("{grid: {lab.name: [1]}}", "the same for all runs"),
        ("{grid: {project: [1]}}", "of one project"),
        ("{grid: {a..b: [1]}}", "empty part"),
        ("{grid: {lr.x: [1]}}", "holds no keys"),
        ("{seeds: [" + ", ".join(map(str, range(1001))) + "]}", "1001 runs, and at most 1000"),
    ],
)
def test_a_mistake_in_the_grid_is_told_at_its_line(block, words):
    [mistake] = mistakes(swept(block))

    assert mistake["line"] == 5
    assert words in mistake["message"]
    assert Job.objects.count() == 0


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ("x: &x 1\ny: *x\n", "x"),  # y would lose what it refers to
        ("x: &x {a: 1}\ny: *x\n", "y.a"),
        ("x: &x {a: {b: 1, c: 2}}\n<<: *x\n", "a.b"),
        ("f: [1]\n", "f.3"),
    ],
)
def test_what_cannot_be_set_alone_is_refused_and_never_guessed(keys, key):
    [mistake] = mistakes(swept(f"{{grid: {{{key}: [7]}}}}", keys))

    assert mistake["line"] == keys.count("\n") + 4


def test_a_key_that_the_file_does_not_name_is_told():
    spec = submission.read(swept("{grid: {lr: [1], leraning_rate: [2]}}"))

    assert sweeps.added_keys(spec.config, spec.sweep.keys) == ["leraning_rate"]


def test_one_way_for_one_job_and_one_for_many():
    with pytest.raises(NotSubmitted, match="sweep of 4 runs"):
        submission.submit(CONFIG)
    with pytest.raises(NotSubmitted, match="Nothing is varied"):
        sweeps.submit("lab: {command: [x], project: p}\n")


def test_an_editor_leaves_what_it_is_not_asked_for_as_it_is():
    assert Editor("\ufeff" + CONFIG).edited({}) == "\ufeff" + CONFIG


# --- how many at a time --------------------------------------------------------------------------


def test_no_more_run_at_a_time_than_the_sweep_says():
    make.device(gpus=8)
    sweep = sweeps.submit(CONFIG)

    assert len(dispatch()) == 2
    assert dispatch() == []

    waiting = sweep.jobs.queued().first()
    assert waiting.waiting_reason.startswith("Its sweep already runs 2 of at most 2;")
    sweep.set_max_running(3)
    assert len(dispatch()) == 1
    sweep.set_max_running(None)
    assert len(dispatch()) == 1


def test_a_full_sweep_keeps_nobody_else_waiting():
    make.device(gpus=3)
    sweeps.submit(CONFIG)
    make.job(name="another")

    assert {attempt.job.name for attempt in dispatch()} == {"", "another"}
    assert Job.objects.live().count() == 3


def test_of_two_dispatchers_the_second_meets_the_bound():
    device = make.device(gpus=4)
    sweep = sweeps.submit(CONFIG)
    jobs = list(sweep.jobs.order_by("pk"))
    sweep.set_max_running(1)
    gpus = list(device.gpus.all())
    jobs[0].assign(device, gpus[:1], database_now())

    with pytest.raises(LostRace, match="at most 1"):
        jobs[1].assign(device, gpus[1:2], database_now())

    assert Job.objects.get(pk=jobs[1].pk).state == JobState.QUEUED


# --- the verbs -----------------------------------------------------------------------------------


def end(attempt, outcome=Outcome.FAILED):
    attempt.accept(database_now())
    attempt.start(database_now(), pid=4711)
    attempt.end(outcome, database_now(), exit_code=1)
    attempt.release()


@pytest.fixture
def sweep():
    return sweeps.submit(CONFIG, by=make.user("ann"))


def test_a_sweep_is_cancelled_whole(sweep):
    make.device(gpus=4)
    started, _ = dispatch()
    started.accept(database_now())

    assert sweep.cancel() == 4

    assert sweep.counts() == {"assigned": 1, "cancelled": 3}
    assert Job.objects.get(pk=started.job_id).cancel_requested_at
    assert JobEvent.objects.filter(kind="cancelled").count() >= 2


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has one lock")
@pytest.mark.django_db(transaction=True)
def test_a_sweep_is_cancelled_while_its_devices_have_something_to_tell():
    sweep = sweeps.submit(CONFIG, by=make.user("ann"))
    make.device(gpus=4)
    live = dispatch()[0].job
    cancelled = []

    def cancel():
        try:
            told = changed_by(sweep.user, sweep, "cancel")
            cancelled.append(sweep.cancel(by=sweep.user, told=told))
        finally:
            connection.close()

    thread = threading.Thread(target=cancel)
    with change():
        live.lock()
        thread.start()
        until_somebody_waits_for_a_row()
        record(live, EventKind.EDITED)  # it is written last: or deadlock detected
    thread.join()

    assert cancelled == [4]


def test_a_sweep_is_held_let_go_and_given_another_priority(sweep):
    make.device(gpus=4)

    sweep.hold(True)
    assert (dispatch(), sweep.counts()) == ([], {"held": 4})
    sweep.hold(False)
    assert sweep.counts() == {"queued": 4}
    sweep.set_priority(Priority.LOW)
    assert set(sweep.jobs.values_list("priority", flat=True)) == {Priority.LOW}

    sweep.cancel()
    with pytest.raises(IllegalTransition, match="No run of sweep"):
        sweep.hold(True)


def test_what_failed_is_queued_again_within_the_sweep(sweep):
    make.device(gpus=4)
    for attempt, outcome in zip(dispatch(), [Outcome.FAILED, Outcome.SUCCEEDED], strict=True):
        end(attempt, outcome)

    assert sweep.rerun_failed(by=sweep.user) == 1

    again = sweep.jobs.order_by("pk").last()
    assert (again.run_number, again.parent.run_number) == (5, 1)
    assert (text_of(again), again.swept) == (text_of(again.parent), again.parent.swept)
    assert sweep.counts() == {"queued": 3, "succeeded": 1}
    with pytest.raises(IllegalTransition, match="failed"):
        sweep.rerun_failed()


def test_whoever_does_not_work_in_a_project_any_more_queues_none_of_its_runs_again(sweep):
    make.device(gpus=4)
    end(dispatch()[0])
    Project.objects.update(private=True, created_by=make.user("lead"))
    Member.put(sweep.project, sweep.user, MemberRole.LOOK)
    sweep.project.refresh_from_db()

    with pytest.raises(NotAllowed, match="private"):
        sweep.rerun_failed(by=sweep.user)


def test_a_run_that_its_owner_reruns_stays_in_the_sweep(sweep):
    job = sweep.jobs.first()
    job.cancel()

    own = submission.rerun(job, by=sweep.user)
    others = submission.rerun(job, by=make.user())

    assert (own.sweep_id, own.swept) == (sweep.pk, job.swept)
    assert (others.sweep_id, others.swept) == (None, {})


def test_a_sweep_is_deleted_when_it_has_ended(sweep):
    with pytest.raises(SweepNotEnded, match="cancel it first"):
        sweep.delete_runs(database_now())
    sweep.cancel()

    with CaptureQueriesContext(connection) as captured:
        assert sweep.delete_runs(database_now()) == 4
    changes = [one["sql"] for one in captured if one["sql"].startswith(("UPDATE", "INSERT"))]

    assert len(changes) == 2, "the writer is not held for longer with each run"
    assert JobEvent.objects.filter(kind=EventKind.DELETED).count() == 4
    assert not Sweep.objects.present().exists()
    Job.objects.first().restore_run()
    assert Sweep.objects.present().count() == 1
