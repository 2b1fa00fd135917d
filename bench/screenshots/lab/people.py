"""Who works in the lab, and what its managers have done."""

from datetime import datetime, timedelta

from django.contrib.auth.models import User

from bench.screenshots.pages import PASSWORD
from devices.models import Device
from experiments.models import Job, Member, MemberRole, Project, Secret
from experiments.states import Priority
from people.audit import recorded
from people.models import ApiToken, Invite, Profile
from people.roles import Role

PEOPLE = {
    "minjun": "Kim Minjun",
    "seoyeon": "Lee Seoyeon",
    "jiho": "Park Jiho",
    "haeun": "Choi Haeun",
    "yoon": "Prof. Yoon",
}


def enter() -> None:
    for username, name in PEOPLE.items():
        first, last = name.rsplit(" ", 1)
        User.objects.create_user(
            username, password=PASSWORD, first_name=first, last_name=last,
            is_staff=username == "yoon", is_superuser=username == "yoon",
        )  # fmt: skip


def manage(now: datetime) -> None:
    users = {user.username: user for user in User.objects.all()}
    _give_access(users, now)
    _look_after_hosts(users["yoon"])
    _set_up_projects(users, now)


def _give_access(users: dict[str, User], now: datetime) -> None:
    yoon, minjun = users["yoon"], users["minjun"]
    for name, of in (("laptop", yoon), ("sweeps on gpu-01", minjun), ("notebook", minjun)):
        ApiToken.make(of, name, now, timedelta(days=90) if of == minjun else None)
    Invite.make(Role.RESEARCHER, now, by=yoon, uses=4, note="new students")
    with recorded(yoon, users["haeun"], "role"):
        Profile.set_role(users["haeun"], Role.VIEWER, by=yoon)
    User.objects.update(date_joined=now - timedelta(days=214))


def _look_after_hosts(yoon: User) -> None:
    device = Device.objects.get(host_id="gpu-02")
    with recorded(yoon, device, "drain"):
        device.drain()
    with recorded(yoon, device, "resume"):
        device.resume()
    lack = {"name": "/data/imagenet", "user": "", "python": ""}
    Device.objects.filter(host_id="gpu-01").update(
        environment={"DATA_ROOT": "/data2", "HF_HOME": "/data2/hf"}, lacks=[lack]
    )


def _set_up_projects(users: dict[str, User], now: datetime) -> None:
    yoon = users["yoon"]
    job = Job.objects.queued().filter(held=False).last()
    with recorded(yoon, job, "priority"):
        job.set_priority(Priority.HIGH, by=yoon)
    Project.objects.filter(name="sar-flow").update(private=True)
    project = Project.objects.get(name="mstar-curriculum")
    for name, of in (("HF_TOKEN", yoon), ("WANDB_API_KEY", yoon), ("WANDB_API_KEY", project)):
        Secret.put(of, name, "not a real one", now - timedelta(days=3), by=yoon)
    Member.put(project, users["jiho"], MemberRole.LEAD)
    Member.put(project, users["seoyeon"], MemberRole.WORK)
    with recorded(yoon, project, "change"):
        Project.objects.filter(pk=project.pk).update(
            main_metric="test_accuracy", title="MSTAR, from easy to hard"
        )
    for other in ("digits", "fixmatch-ssl", "det-aerial"):
        Project.objects.filter(name=other).update(main_metric="test_accuracy")
