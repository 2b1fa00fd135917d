"""What is refused is refused in the reader's language: each sentence is provoked, in Korean.

A sentence that is new in one of the modules below and that nothing here provokes fails the tests,
and so does one that comes out without Korean.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils import translation

from agent.wire import MAX_CONFIG_BYTES
from devices.models import Device
from devices.models.device import check_unused
from experiments import configfiles, submission
from experiments.config import parse
from experiments.models import Attempt, Job, JobEvent, Project, UnixAccount
from experiments.options import options_of
from experiments.states import JobState, Outcome, Priority
from experiments.yamltree import ConfigInvalid
from labsite.clock import database_now
from labsite.errors import Refused
from tests import make
from tests.experiments.wrong import BLOCKS, FILES, FOR_A_SHELL, hostile

PARSERS = ["codesource", "config", "options", "units", "values", "yamltree", "yamlwords"]
GIT = {"kind": "git", "url": "/srv/x.git", "commit": "abcdef1"}
GETTEXT = {"gettext", "ngettext", "pgettext", "gettext_lazy"}
HANGUL = re.compile("[가-힣]")


@pytest.fixture
def asked(monkeypatch) -> Iterator[set[str]]:
    """The sentences that are looked up, while the language is Korean."""
    looked_up: set[str] = set()
    backend = translation._trans
    real = {name: getattr(backend, name) for name in ("gettext", "ngettext", "pgettext")}
    with translation.override("ko"):
        for name, call in real.items():
            monkeypatch.setattr(backend, name, _noting(looked_up, name, call))
        yield looked_up


def _noting(looked_up: set[str], name: str, call: Callable[..., str]) -> Callable[..., str]:
    def note(*words):
        looked_up.add(words[1] if name == "pgettext" else words[0])
        return call(*words)

    return note


def sentences(path: str, *, lazy: bool = True) -> set[str]:
    """All that a module hands to gettext."""
    tree = ast.parse((Path(settings.BASE_DIR) / path).read_text())
    names = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "django.utils.translation"
        for alias in node.names
    }
    return {
        node.args[names[node.func.id] == "pgettext"].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and (real := names.get(node.func.id)) in GETTEXT
        and (lazy or not real.endswith("_lazy"))
    }


def refusal(call: Callable[..., object], *args, **kwargs) -> Refused:
    with pytest.raises(Refused) as refused:
        call(*args, **kwargs)
    return refused.value


# --- the config's reader ------------------------------------------------------------------------


def wrong_configs() -> list[tuple[str | bytes | None, dict[str, object]]]:
    """A file, and what comes with it."""
    long_command = " ".join(["word"] * 20_000)
    return [
        *((f"lab:\n  command: [x]\n  {block}\n", {}) for block, _ in BLOCKS),
        *((text, {"command": "true"}) for text, *_ in FILES),
        *((None, {"command": line}) for line in FOR_A_SHELL),
        *((text, {"project": "p"}) for text in hostile().values()),
        ("lab:\n  command: |\n    cd code\n    python train.py\n", {}),
        (None, {"command": "SEED=1 python train.py"}),
        (None, {"command": "python 'train.py"}),
        (None, {"command": "python train.py {config}"}),
        (None, {"command": ["x" * 40_000, "y" * 40_000]}),
        (None, {"command": long_command.split()}),
        (None, {"command": [["x"]]}),
        ("lr: 1\n", {}),
        ("lab: {command: []}", {}),
        ('lab: {command: [a, "b\\0"]}', {}),
        (b"#" * (MAX_CONFIG_BYTES + 1), {"command": "true"}),
        ("lab: {command: [x], links: {data: /data}}", {}),
        (None, {"command": "x", "source": GIT, "working_directory": "~/x"}),
    ]


def test_every_mistake_of_a_config_is_named_in_korean(asked):
    for text, given in wrong_configs():
        refused = refusal(parse, text, given=given)

        for error in refused.facts["errors"]:
            assert HANGUL.search(error["message"]), error["message"]
        assert HANGUL.search(str(refused))

    known = {sentence for name in PARSERS for sentence in sentences(f"experiments/{name}.py")}
    assert known - asked == set(), "nothing above provokes these"


def test_without_a_reader_the_sentences_are_english():
    refused = refusal(parse, "lab: {command: [x], tags: a, priority: b}")

    assert str(refused).startswith("line 1, column 27: tags: write a list")


def test_a_file_of_the_stock_is_refused_in_korean(asked):
    (settings.LAB_CONFIG_DIR / "big.yaml").write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))

    absent = refusal(configfiles.read, "nothing.yaml")
    large = refusal(configfiles.read, "big.yaml")

    assert HANGUL.search(str(absent))
    assert absent.facts == {"field": "config_path"}
    assert HANGUL.search(str(large))
    assert large.facts == {"limit": MAX_CONFIG_BYTES}


@pytest.mark.django_db
def test_a_job_without_a_project_is_refused_in_korean(asked):
    assert HANGUL.search(str(refusal(submission.read, None, {"command": "true"})))


# --- verbs --------------------------------------------------------------------------------------


def ended() -> Job:
    job = make.job()
    job.cancel()
    return job


def running() -> Job:
    return make.attempt(started=True).job


def resumed_too_early() -> Refused:
    return refusal(submission.rerun, running(), resume=True)


def assigned_to_a_full_device() -> Refused:
    device = make.device(gpus=1, draining=True)
    return refusal(make.job().assign, device, [], database_now())


def moved_by_somebody_else() -> Refused:
    job = make.job()
    same = Job.objects.get(pk=job.pk)
    job.assign(make.device(gpus=1), [], database_now())
    return refusal(same.assign, make.device(gpus=1), [], database_now())


def started_twice() -> Refused:
    attempt = make.attempt(started=True)
    return refusal(attempt.start, database_now())


def ended_twice() -> Refused:
    attempt = make.attempt(started=True)
    attempt.end(Outcome.FAILED, database_now())
    return refusal(attempt.end, Outcome.FAILED, database_now())


def no_identifier(monkeypatch) -> Refused:
    monkeypatch.setattr("experiments.models.queue.secrets.token_hex", lambda digits: "ab")
    make.job()
    return refusal(make.job)


def token_of_another() -> Refused:
    taken = make.device()
    return refusal(check_unused, taken.token_sha256, make.device())


def assigned_as_nobody() -> Refused:
    device = make.device(gpus=1, run_as="submitter")
    return refusal(make.job(by=make.user("kim")).assign, device, [], database_now())


def assigned_without_its_secret() -> Refused:
    job = make.job(by=make.user("park"))
    job.secrets = ["HF_TOKEN"]
    Job.objects.filter(pk=job.pk).update(secrets=job.secrets)
    return refusal(job.assign, make.device(), [], database_now())


def of_demo() -> Refused:
    project = make.job(project="demo").project
    Project.objects.filter(pk=project.pk).update(is_demo=True)
    return refusal(Project.objects.get(pk=project.pk).next_run)


def archived(verb: str) -> Refused:
    project = make.job(project=verb).project
    Project.objects.filter(pk=project.pk).update(archived_at=database_now())
    project.refresh_from_db()
    return refusal(getattr(project, verb))


def deleted_under_a_resumed_one() -> Refused:
    job = ended()
    files = [{"experiment_uid": job.uid, "file_name": "a", "lay_as": "a"}]
    Job.objects.filter(pk=make.job().pk).update(resume_point={"resume": {"files": files}})
    return refusal(job.delete_run, database_now())


REFUSALS = {
    "cancel": lambda: refusal(ended().cancel),
    "requeue": lambda: refusal(make.job().requeue),
    "give up what waits": lambda: refusal(make.job().give_up, requeue=True),
    "give up what can be reached": lambda: refusal(running().give_up, requeue=True),
    "hold": lambda: refusal(running().hold, True),
    "delete": lambda: refusal(running().delete_run, database_now()),
    "delete what is deleted": lambda: refusal(
        Job.objects.none().leave_tombstones, [make.job()], database_now()
    ),
    "resume": resumed_too_early,
    "delete what is needed": deleted_under_a_resumed_one,
    "archive": lambda: refusal(make.job(project="busy").project.archive, database_now()),
    "next run": lambda: archived("next_run"),
    "run of a demo": of_demo,
    "change": lambda: archived("check_writable"),
    "assign": assigned_to_a_full_device,
    "race": moved_by_somebody_else,
    "start": started_twice,
    "end": ended_twice,
    "name": lambda: refusal(Project.named, "../etc", by=None),
    "token": token_of_another,
    "nobody": assigned_as_nobody,
    "secret": assigned_without_its_secret,
    "private": lambda: refusal(make.project(private=True).check_submit, make.user()),
    "urgent": lambda: refusal(make.job().set_priority, Priority.URGENT, by=make.user()),
}


@pytest.mark.django_db
def test_every_refusal_of_a_verb_is_korean_and_names_no_raw_state(asked, monkeypatch):
    said = [str(provoke()) for provoke in REFUSALS.values()]
    said += [str(Attempt.objects.first()), str(make.attempt().gpu_claims.get())]
    said.append(str(no_identifier(monkeypatch)))

    for sentence in said:
        assert HANGUL.search(sentence), sentence
        assert not re.search(rf"\b({'|'.join(JobState.values)})\b", sentence), sentence
    models = ["job", "attempt", "project", "queue", "account"]
    with pytest.raises(ValidationError, match="Unix 계정"):
        UnixAccount(user=make.user("lee"), name="root").full_clean()
    with pytest.raises(ValidationError, match="지표 이름"):
        Project(name="digits", main_metric='a"b').clean_fields()
    known = set.union(*(sentences(f"experiments/models/{m}.py", lazy=False) for m in models))
    assert known - asked == set(), "nothing above provokes these"


@pytest.mark.django_db
def test_what_a_manager_writes_wrong_is_told_in_korean(asked):
    for wrong in ({"labels": ["a100"]}, {"environment": {"A=B": ""}}):
        with pytest.raises(ValidationError) as refused:
            Device(host_id="gpu", **wrong).clean()
        assert all(map(HANGUL.search, refused.value.messages))
    with pytest.raises(ValidationError, match="셸에서만 통하는데"):
        Project(name="digits", command="a | b").clean()

    known = sentences("devices/models/device.py", lazy=False)
    assert known - asked == {"This token is another device's. Make a new one on this host."}


@pytest.mark.django_db
def test_the_history_of_a_job_is_told_in_korean(asked):
    attempt = make.attempt(started=True)

    assert all(HANGUL.search(str(event)) for event in JobEvent.objects.filter(job=attempt.job))


def test_stored_defaults_are_refused_in_korean(asked):
    with pytest.raises(ConfigInvalid) as refused:
        options_of({"resources": {"gpu_memory": 24}})

    assert "단위가 없습니다" in str(refused.value)
