"""People are told of ends of runs: what, to whom, once, and again if nobody took it."""

import hashlib
import hmac
import json
from datetime import timedelta

import pytest
from django.core import mail

from experiments import sweeps
from experiments.models import Channel, Job, JobEvent, Member, MemberRole, Project, Pulse
from experiments.models.channel import FIRST_PAUSE, GIVES_UP_AFTER, OF_LAB, OF_RUNS, TOO_OLD
from experiments.states import EventKind, Outcome
from labsite.clock import database_now
from labsite.telling import left, post
from labsite.telling.forms import SLACK_CHARACTERS, send, slack_body
from labsite.telling.phrases import Phrase, Text
from labsite.telling.post import NotTaken
from labsite.telling.said import Said
from labsite.telling.telling import SEVERAL, Look, look, tell
from people.models import Profile
from sync import storage
from sync.models import SyncFile
from sync.storage import Place
from tests import make
from tests.labsite.listener import listening

pytestmark = pytest.mark.django_db

KEY = "a key of the receiver's own"


@pytest.fixture(autouse=True)
def quick(settings, tmp_path, monkeypatch):
    settings.LAB_SECRETS_KEYS = []
    settings.LAB_SECRETS_KEY_FILE = tmp_path / "secrets_key"
    settings.LAB_PUBLIC_URL = "https://lab.example"
    monkeypatch.setattr(left, "SETTLES", timedelta(0))
    monkeypatch.setattr("labsite.telling.telling.SETTLES", timedelta(0))


@pytest.fixture
def slack():
    with listening() as listener:
        yield listener


@pytest.fixture
def kim():
    return make.user("kim")


def channel(of, url, kind="slack", wants=None, by=None, **more) -> Channel:
    wants = wants or (OF_LAB if of is None else OF_RUNS)
    return Channel.put(of, kind, url, wants, database_now(), by=by or of, **more)


def ended(by, outcome=Outcome.SUCCEEDED, **given) -> Job:
    attempt = make.attempt(by=by, started=True, **given)
    attempt.end(outcome, database_now(), exit_code=0 if outcome == Outcome.SUCCEEDED else 1)
    return Job.objects.get(pk=attempt.job_id)


def go(send=send) -> None:
    """What the thread does after a wake-up."""
    for pk in look(Look(), database_now(), 60).found:
        tell(pk, "this process", send)


def texts(listener) -> list[str]:
    return [json.loads(body)["text"] for body in listener.bodies]


def keeping() -> tuple[list[Said], object]:
    kept: list[Said] = []
    return kept, lambda channel, said, now: kept.append(said)


# --- what is said --------------------------------------------------------------------------------


def test_an_end_is_told_once_with_run_duration_metric_and_link(kim, slack):
    channel(kim, slack.url)
    make.project("digits", main_metric="accuracy")
    attempt = make.attempt(by=kim, started=True, name="baseline")
    job = attempt.job
    job.note_summary(
        {"columns": ["accuracy"], "last": {"accuracy": 0.9}, "max": {"accuracy": 0.91}, "min": {}}
    )
    Job.objects.filter(pk=job.pk).update(started_at=database_now() - timedelta(hours=2))
    attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)

    go()
    go()

    [text] = texts(slack)
    assert text.splitlines() == [
        "*`digits/run_001` succeeded after 2\xa0h*",
        "Name: `baseline`",
        f"GPU server: `{attempt.device.host_id}`",
        "Best `accuracy`: 0.91",
        f"https://lab.example/runs/{job.uid}/",
    ]


def test_a_failure_says_why_and_what_to_do(kim, slack):
    channel(kim, slack.url)
    attempt = make.attempt(by=kim, started=True)
    log = b'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n'
    log += b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"
    name = f"{attempt.job.run_name}.log"
    storage.write_at(Place.of(attempt.job, name), 0, log)
    at = database_now()
    SyncFile.objects.create(
        job=attempt.job, name=name, attempt=1, generation=1, size=len(log), synced_at=at
    )
    attempt.end(Outcome.FAILED, database_now(), exit_code=1)

    go()

    [text] = texts(slack)
    assert "`digits/run_001` failed after" in text
    assert "The script stopped with an error (exit code 1)." in text
    assert "`torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB`" in text
    assert "Use a smaller batch" in text


def test_it_is_said_in_the_language_of_who_set_it(kim, slack):
    Profile.wish(kim, language="ko")
    channel(kim, slack.url)
    ended(kim)

    go()

    assert "성공" in texts(slack)[0]


def test_a_webhook_is_signed_and_names_the_message(kim, slack):
    channel(kim, slack.url, "webhook", key=KEY)
    job = ended(kim, Outcome.FAILED)

    go()

    [(_path, headers, body)] = slack.got
    expected = hmac.new(KEY.encode(), body, hashlib.sha256).hexdigest()
    told = json.loads(body)
    assert headers["X-Lab-Signature"] == f"sha256={expected}"
    assert headers["X-Lab-Delivery"] == told["id"]
    assert (told["kind"], told["run"]["uid"], told["run"]["exit_code"]) == ("run", job.uid, 1)
    assert told["url"] == f"https://lab.example/runs/{job.uid}/"


def test_an_e_mail_has_the_title_as_its_subject(kim, settings):
    settings.EMAIL_HOST = "mail.example"
    channel(kim, "kim@uni.example", "mail")
    ended(kim)

    go()

    [message] = mail.outbox
    assert message.to == ["kim@uni.example"]
    assert message.subject.startswith(f"[{settings.LAB_NAME}] digits/run_001 succeeded")
    assert "https://lab.example/runs/" in message.body


@pytest.mark.parametrize(
    "name",
    [
        "<!channel>",
        "<@U1>",
        "<https://evil|here>",
        "@all",
        "[a](https://evil)",
        "a`b",
        "&lt;!here>",
    ],
)
def test_a_name_calls_nobody_and_links_nowhere(kim, slack, name):
    channel(kim, slack.url)
    ended(kim, name=name)

    go()

    line = texts(slack)[0].splitlines()[1]
    assert "<" not in line
    assert line.count("`") == 2
    assert line.endswith("`")


@pytest.mark.parametrize(
    "text", ["see @all", "[a](https://evil)", "https://evil", "<!here>", "`x"]
)
def test_a_text_of_a_log_calls_nobody_and_links_nowhere(text):
    shown = Phrase("%(text)s", {"text": Text(text)}).slack()

    assert not {"@a", "](", "://", "<", "`"} & {
        shown[n : n + k] for n in range(20) for k in (1, 2, 3)
    }


def test_a_name_with_lines_and_marks_of_direction_is_one_line():
    assert Phrase("%(n)s", {"n": "a\nb\u202ec\x00"}).plain() == "a b c"


def test_a_long_message_is_cut_and_keeps_its_link(kim):
    made = channel(kim, "https://hooks.example/x")
    lines = [Phrase("%(text)s", {"text": Text("x" * 600)})] * 20

    text = json.loads(slack_body(made, Said("1", "run", Phrase("t"), "/runs/x/", lines)))["text"]

    assert len(text) < 4000
    assert text.endswith("https://lab.example/runs/x/")


# --- to whom, and of what ------------------------------------------------------------------------


def test_only_what_is_wanted_is_told(kim, slack):
    channel(kim, slack.url, wants=["failed"])
    ended(kim)
    ended(kim, Outcome.FAILED)

    go()

    assert len(slack.got) == 1
    assert "failed" in texts(slack)[0]


def test_nobody_is_told_of_anothers_runs(kim, slack):
    channel(kim, slack.url)
    ended(make.user("lee"))
    ended(None)

    go()

    assert slack.got == []


def test_one_who_cancels_their_own_run_need_not_be_told(kim, slack):
    channel(kim, slack.url)
    make.job(by=kim).cancel(by=kim)
    make.job(by=kim).cancel(by=make.manager("boss"))
    running = make.attempt(by=kim, started=True)
    running.job.cancel(by=make.manager("chief"))
    running.end(Outcome.CANCELLED, database_now())

    go()

    first, second = texts(slack)
    assert first.startswith("*`digits/run_002` was cancelled by `boss`*")
    assert second.startswith("*`digits/run_003` was cancelled by `chief`*")


def test_a_projects_channel_tells_of_all_of_its_runs_and_of_no_others(kim, slack):
    project = make.project("digits", created_by=kim)
    channel(project, slack.url, by=kim)
    ended(make.user("lee"))
    ended(None)
    ended(kim, project="other")

    go()

    assert [text.split("`")[1] for text in texts(slack)] == ["digits/run_001", "digits/run_002"]


def test_one_who_leads_the_project_no_more_is_told_nothing(kim, slack):
    project = make.project("hush", private=True)
    Member.put(project, kim, MemberRole.LEAD)
    made = channel(project, slack.url, by=kim)
    Member.put(project, kim, MemberRole.LOOK)
    ended(make.manager("boss"), project="hush")

    go()

    assert slack.got == []
    made.refresh_from_db()
    assert made.told_upto == JobEvent.objects.filter(kind="ended").get().pk


def test_one_whose_account_was_closed_is_told_nothing(kim, slack):
    channel(kim, slack.url)
    ended(kim)
    Profile.set_active(kim, False)

    go()

    assert slack.got == []


def test_runs_of_a_demo_and_deleted_ones_are_not_told(kim, slack):
    channel(kim, slack.url)
    ended(kim).delete_run(database_now())
    ended(kim, project="made-up")
    Project.objects.filter(name="made-up").update(is_demo=True)

    go()

    assert slack.got == []


def test_a_sweep_is_told_when_all_of_it_is_done(kim, slack):
    channel(kim, slack.url)
    wish = {"project": "digits", "command": ["true"], "resources": {"gpus": 1}}
    sweep = sweeps.submit("lr: 1\n", {**wish, "sweep": {"grid": {"lr": [1, 2, 3]}}}, by=kim)
    runs = list(sweep.jobs.order_by("pk"))
    for job, outcome in zip(runs, [Outcome.SUCCEEDED, Outcome.FAILED], strict=False):
        make.attempt(job, started=True).end(outcome, database_now(), exit_code=1)
    go()
    before = list(slack.got)
    make.attempt(runs[2], started=True).end(Outcome.SUCCEEDED, database_now(), exit_code=0)

    go()

    assert before == []
    [text] = texts(slack)
    assert text.startswith(f"*`sweep {sweep.pk}` in `digits` is done: ")
    assert "2 succeeded" in text
    assert "1 failed" in text
    assert text.endswith(f"/sweeps/{sweep.pk}/")


def test_many_ends_at_once_are_one_message_but_for_programs(kim, slack):
    channel(kim, slack.url)
    with listening() as program:
        channel(kim, program.url, "webhook", key=KEY)
        for _ in range(SEVERAL):
            ended(kim)

        go()

        assert len(program.got) == SEVERAL
    [text] = texts(slack)
    assert text.startswith(f"*{SEVERAL} runs ended*\n`digits/run_001` succeeded")


def test_who_is_deactivated_meanwhile_is_told_no_more_of_a_backlog(kim):
    made = channel(kim, "https://hooks.example/x", "webhook", key=KEY)
    ended(kim)
    ended(kim)
    kept, keep = keeping()

    def and_then_deactivated(*args):
        keep(*args)
        type(kim).objects.update(is_active=False)

    tell(made.pk, "this process", and_then_deactivated)

    made.refresh_from_db()
    assert len(kept) == 1
    assert made.told_upto == JobEvent.objects.latest("pk").pk


def test_one_that_is_deleted_meanwhile_gets_no_more_of_a_backlog(kim):
    made = channel(kim, "https://hooks.example/x", "webhook", key=KEY)
    ended(kim)
    ended(kim)
    kept, keep = keeping()

    def and_then_deleted(*args):
        keep(*args)
        Channel.objects.all().delete()

    tell(made.pk, "this process", and_then_deleted)

    assert len(kept) == 1


def test_one_that_is_deleted_as_it_is_taken_gets_nothing(kim, monkeypatch):
    made = channel(kim, "https://hooks.example/x")
    ended(kim)
    kept, keep = keeping()
    read = Channel.refresh_from_db

    def too_late(self):
        Channel.objects.all().delete()
        read(self)

    monkeypatch.setattr(Channel, "refresh_from_db", too_late)
    tell(made.pk, "this process", keep)

    assert kept == []


def test_a_run_that_is_imported_is_no_news(kim, slack):
    channel(kim, slack.url)
    JobEvent.objects.filter(job=ended(kim), to_state="succeeded").update(kind=EventKind.IMPORTED)

    go()

    assert slack.got == []


def test_what_was_before_it_was_set_is_not_told(kim, slack):
    ended(kim)
    channel(kim, slack.url)

    go()

    assert slack.got == []


def test_what_is_not_wanted_hides_nothing_behind_it_however_much_it_is(kim, slack, monkeypatch):
    monkeypatch.setattr(left, "AT_ONCE", 2)
    channel(kim, slack.url, wants=["failed"])
    for outcome in [Outcome.SUCCEEDED] * 3 + [Outcome.FAILED] * 3:
        ended(kim, outcome)

    go()

    assert len(slack.got) == 3


def test_an_end_whose_clock_is_ahead_is_not_passed_over(kim, slack, monkeypatch):
    monkeypatch.setattr("labsite.telling.telling.SETTLES", timedelta(seconds=10))
    monkeypatch.setattr(left, "SETTLES", timedelta(seconds=10))
    channel(kim, slack.url)
    ended(kim)
    lee = make.user("lee")
    ended(lee)
    settled = database_now() - timedelta(seconds=11)
    JobEvent.objects.filter(job__user=lee).update(at=settled)

    go()
    JobEvent.objects.update(at=settled)
    go()

    assert len(slack.got) == 1


def test_of_two_ends_the_one_that_has_not_settled_waits(kim, slack, monkeypatch):
    monkeypatch.undo()
    channel(kim, slack.url)
    first = ended(kim)
    JobEvent.objects.filter(job=first).update(at=database_now() - left.SETTLES)
    ended(kim)

    go()

    assert [text.split("`")[1] for text in texts(slack)] == ["digits/run_001"]


def test_a_long_message_is_cut_between_its_lines_and_through_no_name(kim):
    made = channel(kim, "https://hooks.example/x")
    line = Phrase("%(run)s ended", {"run": "@channel " * 20})
    said = Said("id", "several", Phrase("many"), "/runs/", [line] * 30)

    [*lines, url] = json.loads(slack_body(made, said))["text"].splitlines()

    assert 3500 < len("".join(lines)) <= SLACK_CHARACTERS
    assert url == "https://lab.example/runs/"
    assert set(lines) == {"*many*", line.slack()}


# --- once, and again if nobody took it -----------------------------------------------------------


def test_one_who_is_killed_before_noting_it_sends_the_same_again(kim, slack):
    made = channel(kim, slack.url, "webhook", key=KEY)
    ended(kim)

    def send_and_die(*args):
        send(*args)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(send_and_die)
    Channel.objects.filter(pk=made.pk).update(busy_until=database_now() - timedelta(seconds=1))

    go()
    go()

    first, second = (json.loads(body) for body in slack.bodies)
    assert first["id"] == second["id"]
    assert first["run"] == second["run"]


def test_of_two_processes_one_sends(kim):
    made = channel(kim, "https://hooks.example/x")
    ended(kim)
    kept, keep = keeping()

    def meanwhile(*args):
        tell(made.pk, "another process", keep)
        keep(*args)

    tell(made.pk, "this process", meanwhile)

    assert len(kept) == 1


def test_one_that_lost_its_lease_moves_nothing(kim):
    made = channel(kim, "https://hooks.example/x")
    ended(kim)
    ended(kim)
    kept, keep = keeping()

    def slow(*args):
        keep(*args)
        Channel.objects.filter(pk=made.pk).update(busy_by="another")

    tell(made.pk, "this process", slow)

    made.refresh_from_db()
    assert len(kept) == 1
    assert (made.told_upto, made.busy_by) == (0, "another")


def test_a_refusal_is_shown_and_tried_again_later_each_time(kim, slack):
    made = channel(kim, slack.url)
    slack.status, slack.answer = 404, b"no_service"
    ended(kim)

    go()
    go()
    made.refresh_from_db()
    first = made.retry_at
    Channel.objects.update(retry_at=database_now())
    go()

    made.refresh_from_db()
    assert len(slack.got) == 2
    assert made.trouble_words == "Slack answered 404: no_service."
    assert made.retry_at - database_now() > first - database_now() > timedelta(0)
    slack.status = 200
    Channel.objects.update(retry_at=database_now())
    go()
    made.refresh_from_db()
    assert (made.failures, made.failing_since, made.trouble_words) == (0, None, "")


def test_one_that_asks_for_a_pause_gets_it(kim, slack):
    made = channel(kim, slack.url)
    slack.status, slack.headers = 429, {"Retry-After": "120"}
    ended(kim)

    go()

    made.refresh_from_db()
    assert made.retry_at - database_now() > FIRST_PAUSE + timedelta(seconds=60)


def test_a_channel_that_fails_keeps_no_other_from_its_messages(kim, slack):
    channel(kim, "http://127.0.0.1:1/closed")
    channel(kim, slack.url)
    ended(kim)

    go()

    assert len(slack.got) == 1


def test_what_is_too_old_is_passed_over_and_counted(kim, slack):
    made = channel(kim, slack.url)
    ended(kim)
    JobEvent.objects.update(at=database_now() - TOO_OLD - timedelta(minutes=1))
    ended(kim)

    go()

    made.refresh_from_db()
    assert len(slack.got) == 1
    assert made.skipped == 1


def test_after_a_week_of_failures_it_is_given_up_until_a_test_arrives(kim, slack):
    made = channel(kim, slack.url)
    week_ago = database_now() - GIVES_UP_AFTER
    Channel.objects.update(failing_since=week_ago, failures=9, trouble={"code": "late"})
    ended(kim)
    go()
    before = list(slack.got)
    made.ask_test(database_now())

    go()

    assert before == []
    test, told = texts(slack)
    assert test.startswith("*This is a test message")
    assert "succeeded" in told


def test_a_test_that_fails_says_so_and_is_not_sent_again(kim, slack):
    made = channel(kim, slack.url)
    slack.status = 500
    made.ask_test(database_now())

    go()
    go()

    made.refresh_from_db()
    assert len(slack.got) == 1
    assert made.trouble_words == "Slack answered 500."
    assert made.failing_since is None


def test_an_end_waits_until_its_last_lines_have_come(kim, slack, monkeypatch):
    monkeypatch.undo()
    channel(kim, slack.url)
    ended(kim)

    found = look(Look(), database_now(), 60)

    assert found.found == []
    assert found.again_seconds == left.SETTLES.total_seconds()


def test_a_failure_after_a_message_that_arrived_is_the_first_one_of_its_row(kim):
    made = channel(kim, "https://hooks.example/x", "webhook", key=KEY)
    before = database_now() - GIVES_UP_AFTER + timedelta(hours=1)
    Channel.objects.update(failing_since=before, failures=9)
    ended(kim)
    ended(kim)
    kept, keep = keeping()

    def once(*args):
        if kept:
            raise NotTaken("late")
        keep(*args)

    go(once)

    made.refresh_from_db()
    assert made.failures == 1
    assert made.failing_since > before + timedelta(hours=1)
    assert made.retry_at - database_now() <= FIRST_PAUSE


def test_those_that_fail_stand_behind_those_that_do_not(kim, slack):
    failing = channel(kim, "https://hooks.example/x")
    Channel.objects.update(failing_since=database_now(), failures=1)
    lively = channel(kim, slack.url)
    ended(kim)

    assert look(Look(), database_now(), 60).found == [lively.pk, failing.pk]


def test_a_message_that_cannot_be_made_is_no_endless_loop(kim, monkeypatch):
    made = channel(kim, "https://hooks.example/x")
    ended(kim)

    def broken(*args):
        raise ValueError

    go(broken)

    made.refresh_from_db()
    assert made.retry_at > database_now()
    assert "log" in made.trouble_words


# --- what an address may do ----------------------------------------------------------------------


def test_a_redirect_is_not_followed(slack):
    slack.status, slack.headers = 307, {"Location": f"{slack.url}/elsewhere"}

    with pytest.raises(NotTaken) as failed:
        post.post(slack.url, b"{}", {})

    assert failed.value.trouble == {"code": "moved"}
    assert len(slack.got) == 1


def test_one_that_answers_for_ever_is_cut_off(slack, monkeypatch):
    monkeypatch.setattr(post, "DEADLINE_SECONDS", 0.3)
    slack.drip_seconds = 0.05

    with pytest.raises(NotTaken) as failed:
        post.post(slack.url, b"{}", {})

    assert failed.value.trouble == {"code": "late"}


@pytest.mark.parametrize(
    "answer", [b"<html>the wiki of the lab</html>", b"x" * 10_000, b"A B", b""]
)
def test_of_an_answer_no_text_is_shown_but_a_code(slack, answer):
    slack.status, slack.answer = 500, answer

    with pytest.raises(NotTaken) as failed:
        post.post(slack.url, b"{}", {})

    assert failed.value.trouble == {"code": "answered", "status": 500, "text": ""}


def test_a_refusal_that_breaks_off_is_a_refusal_all_the_same(slack):
    slack.status, slack.answer, slack.headers = 500, b"no", {"Transfer-Encoding": "chunked"}

    with pytest.raises(NotTaken) as failed:
        post.post(slack.url, b"{}", {})

    assert failed.value.trouble == {"code": "answered", "status": 500, "text": ""}


def test_an_address_that_cannot_be_reached_is_in_no_trouble_and_no_log(kim, caplog):
    made = channel(kim, "http://127.0.0.1:1/s3cr3t")
    ended(kim)

    go()

    made.refresh_from_db()
    assert made.trouble == {"code": "unreachable"}
    assert "s3cr3t" not in caplog.text


def test_what_netrc_has_for_a_host_is_not_sent_there(slack, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login lab password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    post.post(slack.url, b"{}", {})

    assert "Authorization" not in slack.got[0][1]


def test_a_host_that_managers_have_not_allowed_gets_nothing(kim, slack, settings):
    made = channel(kim, slack.url)
    settings.LAB_NOTIFY_HOSTS = [".slack.com"]
    ended(kim)

    go()

    made.refresh_from_db()
    assert slack.got == []
    assert made.trouble == {"code": "forbidden"}


# --- the lab -------------------------------------------------------------------------------------


def test_managers_are_told_once_of_a_faulty_gpu_and_again_of_the_next(slack):
    boss = make.manager("boss")
    channel(None, slack.url, by=boss)
    device = make.device(gpus=2)
    first, second = device.gpus.order_by("index")
    first.fail("xid", {"xid": 79}, database_now())
    go()
    go()
    second.fail("xid", {"xid": 79}, database_now())
    go()

    one, two = texts(slack)
    assert f"`{device.host_id} GPU 0` is faulty" in one
    assert "GPU 1" in two
    assert "GPU 0" not in two


def test_what_a_manager_set_aside_by_hand_is_no_news(slack):
    channel(None, slack.url, by=make.manager("boss"))
    make.device(gpus=1).gpus.get().quarantine("dust", database_now())

    go()

    assert slack.got == []


def test_a_silent_gpu_server_with_runs_is_told_and_one_without_is_not(slack):
    now = database_now()
    Pulse.objects.create(name=Pulse.LANE, at=now, unbroken_since=now - timedelta(hours=1))
    channel(None, slack.url, by=make.manager("boss"))
    make.device()
    busy = make.attempt(started=True).device
    type(busy).objects.update(last_heartbeat_at=now - timedelta(minutes=6))

    go()

    [text] = texts(slack)
    assert f"`{busy.host_id}` has not been heard of since" in text
    assert "1 run there is probably still training" in text


def test_a_server_that_itself_was_away_accuses_nobody(slack):
    channel(None, slack.url, by=make.manager("boss"))
    busy = make.attempt(started=True).device
    type(busy).objects.update(last_heartbeat_at=database_now() - timedelta(minutes=6))

    go()

    assert slack.got == []


def test_one_who_manages_no_more_is_not_told_of_the_lab(slack):
    boss = make.manager("boss")
    channel(None, slack.url, by=boss)
    type(boss).objects.update(is_staff=False)
    make.device(gpus=1).gpus.get().fail("xid", {"xid": 79}, database_now())

    go()

    assert slack.got == []


def test_a_disk_that_goes_back_and_forth_is_told_of_once_until_it_is_well_again(slack):
    channel(None, slack.url, by=make.manager("boss"))
    device = make.device()
    told = []
    for percent in (91, 89, 90, 88, 92, 80, 91):
        free = 10 * (100 - percent)
        type(device).objects.update(disk_total_bytes=1000, disk_free_bytes=free)
        go()
        told.append(len(slack.got))

    assert told == [1, 1, 1, 1, 1, 1, 2]


# --- how much it asks ----------------------------------------------------------------------------


def test_a_look_where_nobody_is_to_be_told_is_two_queries(django_assert_max_num_queries):
    now = database_now()

    with django_assert_max_num_queries(2):
        assert look(Look(), now, 60).found == []


def test_a_look_after_which_nothing_ended_is_few_queries(kim, django_assert_max_num_queries):
    for _ in range(10):
        channel(kim, "https://hooks.example/x")
    ended(kim)
    last = look(Look(), database_now(), 60)
    Channel.objects.update(told_upto=last.seen)

    with django_assert_max_num_queries(6):
        assert look(last, database_now(), 60).found == []


def test_a_look_asks_only_of_those_whose_runs_ended(kim, django_assert_max_num_queries):
    lee = make.user("lee")
    for _ in range(10):
        channel(kim, "https://hooks.example/x")
    its = channel(make.project("letters", created_by=kim), "https://hooks.example/x", by=kim)
    lees = channel(lee, "https://hooks.example/x")
    ended(kim)
    last = look(Look(), database_now(), 60)
    Channel.objects.update(told_upto=last.seen)
    ended(lee, project=its.project)

    with django_assert_max_num_queries(10):
        assert look(last, database_now(), 60).found == [its.pk, lees.pk]


def test_one_that_fell_behind_what_a_look_has_seen_is_found_by_the_next(kim):
    made = channel(kim, "https://hooks.example/x")
    ended(kim)
    last = look(Look(), database_now(), 60)
    ended(make.user("lee"))

    assert look(last, database_now(), 60).found == [made.pk]
