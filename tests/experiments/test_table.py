"""Tables of runs: what a query finds, in which order, and what groups say."""

import json
from contextlib import suppress
from datetime import timedelta
from importlib import import_module

import pytest
from django.apps import apps

from experiments.errors import QueryWrong, TagsWrong
from experiments.models import Cell, Column, Job, Pin
from experiments.models.cell import number_of, values_of_keys
from experiments.states import Outcome
from experiments.table.columns import known_columns, ref_of, refs_of
from experiments.table.fields import Reader
from experiments.table.groups import groups_of, sort_groups
from experiments.table.match import match, unknown_words
from experiments.table.order import ordered
from experiments.table.tags import tags_of
from experiments.table.values import values_of
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db


@pytest.fixture
def kim():
    return make.user("kim")


@pytest.fixture
def reader(kim):
    return Reader(kim, database_now())


def run(config="", summary=None, **given):
    job = make.job(config=config, **given)
    if summary is not None:
        job.note_summary(metrics(**summary))
    return job


def metrics(**values):
    """A summary: of each metric its last value, or its last, lowest and highest."""
    threes = {
        name: value if isinstance(value, tuple) else (value,) * 3 for name, value in values.items()
    }
    parts = {
        part: {name: three[at] for name, three in threes.items() if three[at] is not None}
        for at, part in enumerate(("last", "min", "max"))
    }
    return {"columns": list(threes), **parts}


def names(reader, query):
    return sorted(
        Job.objects.filter(match(query, reader).condition).values_list("name", flat=True)
    )


# --- queries ------------------------------------------------------------------------------------


@pytest.fixture
def lab(kim):
    """Four runs that differ in everything."""
    device = make.device(gpus=4, host_id="gpu1")
    a = run(
        "lr: 0.1\noptimizer: Adam\nmodel: {depth: 18}\n", {"val_loss": (0.3, 0.2, 0.9)},
        name="a", by=kim, tags=["baseline", "50%"],
    )  # fmt: skip
    run("lr: 1e-3\noptimizer: sgd\nflag: yes\n", {"val_loss": 0.25, "acc": 0.9}, name="b")
    run('lr: "fast"\n"a.b \\"c\\" %": 모델\n', {"lr": 0.5}, name="c", project="mnist", gpus=2)
    run("", {"lr": 0.001, "val_loss": 7}, name="d", priority="high", tags=["Paper", "ÄRGER"])
    attempt = make.attempt(a, device, started=True)
    attempt.end(Outcome.FAILED, database_now() + timedelta(hours=2), exit_code=1)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", "abcd"),
        ("lr<0.01", "bd"),  # of d the metric: it has no key of that name
        ("lr=0.1", "a"),
        ("lr:0.001", "bd"),
        ("lr:fast", "c"),  # and not c's metric, which is 0.5
        ("lr>0", "abd"),
        ("lr!=0.1", "bcd"),
        ("-lr=0.1", "bcd"),
        ("metric.lr>0", "cd"),
        ("config.lr>0", "ab"),
        ("optimizer=adam", "a"),
        ("optimizer!=adam", "b"),
        ("-optimizer=adam", "bcd"),
        ("optimizer~DA", "a"),
        ("optimizer:adam,sgd", "ab"),
        ("model.depth=18", "a"),
        ("flag=true", "b"),
        ("val_loss<=0.3", "ab"),
        ("val_loss.min<0.25", "a"),
        ("val_loss.best<0.25", "a"),
        ("val_loss.max>0.8", "ad"),
        ('"a.b \\"c\\" %"=모델', "c"),
        ('"a.b \\"c\\" %"~%', ""),
        ("state:failed", "a"),
        ("state!=failed", "bcd"),
        ("state:ended", "a"),
        ("tag:BASELINE", "a"),
        ("tag:paper", "d"),
        ("tag:ÄRGER", "d"),
        ("tag~RGE", "d"),
        ("tag~5", "a"),
        ("tag:50_", ""),
        ("-tag:baseline", "bcd"),
        ("user:me", "a"),
        ("user:kim", "a"),
        ("project:mnist", "c"),
        ("project:digits,mnist -name:a", "bcd"),
        ("device:gpu1", "a"),
        ("name~A", "a"),
        ("took>1h", "a"),
        ("took<1m", ""),
        ("gpus>1", "c"),
        ("priority>normal", "d"),
        ("run:run_001", "ac"),
        ("submitted>1h submitted:today", "abcd"),
        ("started>=2020-01-01", "a"),
        ("ended<2020-01-01", ""),
        ("mnist/run_001", "c"),
        ("kim", "a"),
        ("-kim run_002", "b"),
        ("nothing<3", ""),
        ("-nothing<3", "abcd"),
        ("lr=1" + "0" * 400, ""),
        ("lr=nan", ""),
        ("val_loss~3", ""),
    ],
)
def test_a_query_finds(lab, reader, query, found):
    assert names(reader, query) == list(found)


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("lr<fast", "fast"),
        ("state:odd", "odd"),
        ("priority:odd", "odd"),
        ("user<3", "3"),
        ("gpus:many", "many"),
        ("run:9999999999", "9999999999"),
        ("submitted>soon", "soon"),
        ("submitted>99999999999d", "99999999999d"),
        ("submitted:2026-13-45", "2026-13-45"),
        ("took>3", "3"),
        ("took:3h", "3h"),
    ],
)
def test_a_value_that_cannot_be_compared_says_where(lab, reader, query, place):
    with pytest.raises(QueryWrong) as refused:
        match(query, reader)

    assert query[refused.value.position : refused.value.end] == place


@pytest.mark.parametrize(
    "value", ["'", '"', "%", "_", "\\", "\x00", "; DROP TABLE", "\ud800", "{}"]
)
def test_hostile_names_and_values_find_nothing_and_break_nothing(lab, reader, value):
    text = json.dumps(value)[1:-1]
    for query in (value, f'x="{text}"', f'"{text}"<3', f'tag:"{text}"', f'"{text}"~"{text}"'):
        with suppress(QueryWrong):
            assert names(reader, query) in ([], ["a"], list("abcd") if value == "\x00" else [])


def test_an_unknown_name_is_told_with_what_may_have_been_meant(lab, reader, kim):
    [unknown] = match("optimzer=adam lr<1", reader).unknown

    assert "did you mean optimizer?" in unknown_words(unknown.text, kim, None)


def test_whatever_stands_in_the_tags_breaks_no_query(lab, reader):
    for name, tags in {
        "b": {"baseline": 1},
        "c": "baseline",
        "d": [1, None, ["baseline"]],
    }.items():
        Job.objects.filter(name=name).update(tags=tags)

    assert "d" not in names(reader, "tag:baseline")


# --- cells --------------------------------------------------------------------------------------


def test_keys_are_flat_and_numbers_are_numbers():
    keys = {"a": {"b": 1, "c": {}}, "d": [1, 2], "e": None, "f": True, "g": "1e-4", "a.b": 2}

    found = values_of_keys(keys)

    assert {name: (value.number, value.text) for name, value in found.items()} == {
        "a.b": (1, "1"), "d": (None, "[1, 2]"), "e": (None, "null"), "f": (None, "true"),
        "g": (1e-4, "1e-4"),
    }  # fmt: skip


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "1_000", "٣", "", "0x10"])
def test_what_is_no_finite_number_is_a_text(text):
    assert number_of(text) is None


def test_a_metric_that_is_written_no_more_is_gone_from_the_table():
    job = run("", {"acc": 0.5, "loss": 1})

    job.note_summary(metrics(acc=0.7))

    cells = Cell.objects.filter(job=job).values_list("column__name", "number")
    assert list(cells) == [("acc", 0.7)]


def test_a_summary_that_has_not_changed_costs_no_cell(django_assert_num_queries):
    job = run("", {"acc": 0.5, "loss": 1})

    with django_assert_num_queries(1 + 2 + 2):  # the job; a savepoint; known columns, cells
        job.note_summary(metrics(acc=0.6, loss=1))

    cells = Cell.objects.filter(job=job, column__name__in=["acc", "loss"])
    assert dict(cells.values_list("column__name", "number")) == {"acc": 0.6, "loss": 1}


def test_a_key_varies_once_runs_differ_in_it():
    run("lr: 1\nseed: 0\n")
    run("lr: 1\nseed: 1\n")

    assert dict(Column.objects.values_list("name", "varies")) == {"lr": False, "seed": True}


def test_runs_of_before_there_were_cells_get_them(lab):
    def cells():
        rows = Cell.objects.order_by("job", "column__kind", "column__name")
        return list(rows.values_list("job", "column__name", "number", "low", "high", "folded"))

    before, columns = cells(), set(Column.objects.values_list("name", "kind", "varies"))
    Column.objects.all().delete()

    import_module("experiments.migrations.0018_fill_cells").fill(apps, None)

    assert cells() == before
    assert set(Column.objects.values_list("name", "kind", "varies")) == columns


# --- order --------------------------------------------------------------------------------------


def in_order(reader, word, *, descending=False):
    ref = ref_of(word) if word else None
    known = known_columns([ref.name] if ref else [], reader.user, None)
    pks = ordered(Job.objects.all(), ref, reader, known, descending=descending)
    by_pk = dict(Job.objects.values_list("pk", "name"))
    return "".join(by_pk[pk] for pk in pks)


@pytest.mark.parametrize(
    ("word", "up", "down"),
    [
        ("", "adcb", "adcb"),  # one's own first, then the newest
        ("submitted", "abcd", "dcba"),
        ("name", "abcd", "dcba"),
        ("took", "adcb", "adcb"),  # what did not run comes last, either way
        ("device", "adcb", "adcb"),
        ("key:lr", "bacd", "abcd"),  # numbers, then texts, then none
        ("last:val_loss", "badc", "dabc"),
        ("min:val_loss", "abdc", "dbac"),
        ("best:val_loss", "abdc", "dbac"),
        ("max:val_loss", "badc", "dabc"),
        ("best:acc", "bdca", "bdca"),
        ("tag", "dcba", "dcba"),
        ("key:nothing", "dcba", "dcba"),
    ],
)
def test_runs_in_the_order_of_a_column(lab, reader, word, up, down):
    assert (in_order(reader, word), in_order(reader, word, descending=True)) == (up, down)


def test_pinned_runs_stand_above_all_others_for_who_pinned_them(lab, reader, kim):
    Pin.put(Job.objects.get(name="c"), by=kim)

    assert in_order(reader, "name") == "cabd"
    assert in_order(Reader(make.user(), reader.now), "name") == "abcd"


def test_the_cells_of_a_page(lab, reader):
    refs = refs_of(["key:lr", "best:val_loss", "last:val_loss", "state", "nonsense", "odd:x"])
    known = known_columns([ref.name for ref in refs], reader.user, None)
    a, c = (Job.objects.get(name=name).pk for name in "ac")

    found = values_of([a, c], refs, known)

    assert [found[a].get(ref) for ref in refs] == ["0.1", 0.2, 0.3, None]
    assert [found[c].get(ref) for ref in refs] == ["fast", None, None, None]


# --- groups -------------------------------------------------------------------------------------


def test_seeds_are_told_as_mean_and_deviation(reader):
    for lr, acc in (("0.1", 0.90), ("0.10", 0.92), ('"1e-1"', 0.94)):
        run(f"lr: {lr}\n", {"acc": acc})
    run("lr: 0.01\nseed: 0\n", {"acc": 0.8})
    run("seed: 1\n")
    by, shown = refs_of(["key:lr"]), refs_of(["best:acc", "state"])
    known = known_columns(["lr", "acc"], reader.user, None)

    groups = groups_of(Job.objects.all(), by, shown, known)

    sort_groups(groups, by, shown[0], descending=True)
    assert [(group.values, group.runs) for group in groups] == [
        (("0.1",), 3), (("0.01",), 1), ((None,), 1)
    ]  # fmt: skip
    spread = groups[0].spreads[shown[0]]
    assert (spread.mean, spread.deviation) == pytest.approx((0.92, 0.02))
    assert groups[1].spreads[shown[0]].deviation is None
    assert groups[2].spreads == {}


def test_groups_of_two_columns_stand_in_the_order_of_one(lab, reader):
    by = refs_of(["project", "key:lr"])
    groups = groups_of(Job.objects.all(), by, [], known_columns(["lr"], reader.user, None))

    sort_groups(groups, by, by[1], descending=False)

    assert [group.values for group in groups] == [
        ("digits", "0.001"), ("digits", "0.1"), ("mnist", "fast"), ("digits", None)
    ]  # fmt: skip


# --- tags ---------------------------------------------------------------------------------------


def test_tags_are_typed_with_commas():
    assert tags_of(" a, b ,,a\nc d") == ["a", "b", "c d"]


@pytest.mark.parametrize("text", ["x" * 65, "a\x07", ",".join(map(str, range(33)))])
def test_tags_that_cannot_be_kept_are_refused(text):
    with pytest.raises(TagsWrong):
        tags_of(text)
