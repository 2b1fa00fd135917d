"""Config keys that look like secrets: which, and where stars stand for their values."""

import pytest

from experiments import discreet, submission
from experiments.discreet import MASK
from experiments.models import Cell, Job
from tests import make

CONFIG = """\
lr: 0.1  # as usual
db:
  host: pg
  password: "hunter2 is not it"
wandb: {api_key: 0123456789abcdef, mode: online}
hub_token: hf_0123456789abcdefgh
pad_token: "<pad>"
max_tokens: 512
tokenizer: bert-base-uncased-2024-11
lab: {project: p, command: [python, train.py]}
"""
KEYS = ["db.password", "wandb.api_key", "hub_token"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("password", "x"), ("DB_PASSWORD", 12345678), ("wandb-api-key", "abc") , ("apiKey", "a"),
        ("client_secret", "a"), ("token", "ghp_0123456789abcdef"), ("aws_secret_key", "a/b"),
    ],
)  # fmt: skip
def test_a_secret_is_known_by_its_keys_last_word(key: str, value: object) -> None:
    assert discreet.is_secret(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("password", None), ("password", ""), ("use_api_key", True), ("pad_token", "<pad>"),
        ("token", "word"), ("num_tokens", 4096), ("token_dim", "ghp_0123456789abcdef"),
        ("tokenizer", "bert-base-uncased-2024"), ("secretary", "a"), ("api_key_env", "HF_TOKEN"),
    ],
)  # fmt: skip
def test_what_deep_learning_calls_tokens_is_none(key: str, value: object) -> None:
    assert not discreet.is_secret(key, value)


def test_only_the_values_are_masked_in_the_text() -> None:
    shown = discreet.masked_text(CONFIG)

    assert "hunter2" not in shown
    assert "0123456789" not in shown
    assert shown.count(MASK) == 3
    assert f"  password: {MASK}\nwandb: {{api_key: {MASK}, mode: online}}" in shown
    assert shown.splitlines()[0] == "lr: 0.1  # as usual"


def test_a_text_that_is_no_yaml_and_an_alias_are_no_trouble() -> None:
    assert discreet.masked_text("a: [") == "a: ["
    shown = discreet.masked_text("한글: 값\na: &x {password: abc}\nb: *x\n")
    assert shown == f"한글: 값\na: &x {{password: {MASK}}}\nb: *x\n"


def test_what_follows_a_block_of_several_lines_stays_where_it_stands() -> None:
    shown = discreet.masked_text("password: |\n  one\n  two\nlr: 0.1\n")

    assert shown == f"password: {MASK}\nlr: 0.1\n"


@pytest.mark.django_db
def test_tables_api_and_page_show_stars_and_the_agent_gets_the_file(client) -> None:
    kim = make.user("kim")
    job = submission.submit(CONFIG, by=kim)
    client.force_login(kim)

    page = client.get(f"/runs/{job.uid}/").content.decode()
    told = client.get(f"/api/jobs/{job.uid}/").json()

    assert bytes(job.config) == CONFIG.encode()
    assert told["keys"]["db"] == {"host": "pg", "password": MASK}
    assert [words.split()[0] for words in told["warnings"]] == KEYS
    for text in (page, client.get("/runs/?columns=key:db.password").content.decode()):
        assert "hunter2" not in text
    assert not Cell.objects.filter(text__contains="hunter2").exists()


@pytest.mark.django_db
def test_the_preview_names_the_key_and_what_to_do(client) -> None:
    client.force_login(make.user())

    answer = client.post("/execute/check/", {"config": CONFIG}).json()

    assert answer["mistakes"] == []
    assert "db.password looks like a secret" in answer["preview"]


@pytest.mark.django_db
def test_a_rerun_with_changes_starts_from_the_file_as_it_is(client) -> None:
    kim = make.user("kim")
    job = submission.submit(CONFIG, by=kim)
    client.force_login(kim)

    page = client.get(f"/execute/?start=run:{job.uid}").content.decode()

    assert "hunter2 is not it" in page  # in the editor, or it could not be queued again
    assert job.keys["db"]["password"] == MASK


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["t.py", "--api-key", "abc", "--lr", "0.1"], ["t.py", "--api-key", MASK, "--lr", "0.1"]),
        (["t.py", "--db.password=abc"], ["t.py", f"--db.password={MASK}"]),
        (["t.py", "+wandb.api_key=abc"], ["t.py", f"+wandb.api_key={MASK}"]),
        (["t.py", "--max_tokens", "512"], ["t.py", "--max_tokens", "512"]),
        (["t.py", "--password"], ["t.py", "--password"]),
    ],
)  # fmt: skip
def test_only_the_values_are_masked_in_a_command(command: list[str], shown: list[str]) -> None:
    assert discreet.masked_command(command) == shown


TRIED = """\
lr: 0.1
db: {password: first0}
lab: {project: p, command: [python, train.py]}
"""
SWEEP = {"grid": {"lr": [0.1, 0.2], "db.password": ["hunter21", "hunter22"]}, "arguments": True}


@pytest.mark.django_db
def test_what_a_sweep_tries_of_such_a_key_is_on_no_page(client) -> None:
    client.force_login(make.manager("kim"))
    wish = {"config": TRIED, "sweep": SWEEP}
    foreseen = client.post("/api/jobs/preview/", wish, "application/json")
    made = client.post("/api/sweeps/", wish, "application/json")
    [job, *_] = jobs = list(Job.objects.order_by("pk"))
    for one in jobs:
        one.note_summary({"last": {"loss": one.pk}, "min": {"loss": one.pk}, "max": {"loss": 1}})

    typed = {"config": TRIED, "sweep": "lr=0.1,0.2 db.password=hunter21,hunter22"}
    checked = client.post("/execute/check/", {**typed, "parent": job.uid})
    pages = [
        client.get(address)
        for address in (
            f"/sweeps/{job.sweep_id}/", f"/sweeps/{job.sweep_id}/curve/", f"/runs/{job.uid}/", "/",
            "/runs/", "/queue/", "/sweeps/", f"/api/jobs/{job.uid}/", "/api/jobs/", "/api/sweeps/",
            "/runs/export.csv?columns=key:db.password", "/runs/export.tex?columns=key:db.password",
            f"/compare/?runs={job.uid},{jobs[1].uid}", f"/admin/experiments/job/{job.pk}/change/",
            f"/admin/experiments/sweep/{job.sweep_id}/change/",
        )
    ]  # fmt: skip

    assert bytes(job.config).count(b"hunter21") == 1
    assert job.command[-1] == "hunter21"  # what runs
    assert job.swept == {"lr": 0.1, "db.password": MASK}
    for answer in (foreseen, checked, made, *pages):
        assert answer.status_code in (200, 201), answer.request["PATH_INFO"]
        assert b"hunter2" not in b"".join(answer), answer.request["PATH_INFO"]
    assert "db.password looks like a secret" in checked.json()["preview"]
    assert [words.split()[0] for words in made.json()["warnings"]] == ["db.password"]
