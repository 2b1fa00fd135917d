"""A project's charts: the curves of its newest runs over one another, by its main metric."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.metrics import values_of
from experiments.models import Job, Project
from labsite.pages.ranking import telling
from sync.curves import together
from sync.curves.shown import axis_kind
from sync.models import SyncFile

#: So many runs are drawn, and so many of the newest are looked at for them.
DRAWN = 8
SEEN = 60


@dataclass(frozen=True)
class Chosen:
    """Which metric is drawn, of which runs."""

    metric: str = ""  # empty: no run that is looked at has one
    jobs: list[Job] = field(default_factory=list)  # the newest first
    seen: list[int] = field(default_factory=list)  # keys of all that were looked at

    @property
    def uids(self) -> str:
        """For the page that compares runs."""
        return ",".join(job.uid for job in self.jobs)


def chosen_of(project: Project, user: Any) -> Chosen:
    """Of the newest runs those that have a value. Two queries."""
    jobs = Job.objects.visible_to(user).present().filter(project=project)
    newest = jobs.select_related("user").defer("config", "keys")[:SEEN]
    values = {job: values_of(job.summary) for job in newest}
    metric = _metric(project, list(values.values()))
    drawn = [job for job, of in values.items() if metric in of][:DRAWN]
    for job in drawn:
        job.project = project
    return Chosen(metric, drawn, [job.pk for job in values])


def curves_of(chosen: Chosen) -> dict[str, Any]:
    """As sync.curves.together has them; `files` are also those of runs without a curve yet."""
    drawn = together.curves_of(chosen.jobs, chosen.metric)
    jobs = {job.pk: job for job in chosen.jobs}
    for one in drawn["runs"]:
        one["words"] = _words(jobs[one["job"]])
    files = SyncFile.objects.results().filter(job__in=chosen.seen).values_list("pk", flat=True)
    return {"metric": chosen.metric, "best": None, **drawn, "all": len(drawn["runs"])} | {
        "files": sorted(files)
    }


def _words(job: Job) -> str:
    about = job.name or (job.user.username if job.user else "")
    return f"{job.run_name} {about}".strip()


def _metric(project: Project, values: Sequence[Mapping[str, Any]]) -> str:
    """The project's main one; else what most runs have, of these what one asks for first."""
    counts = Counter(name for of in values for name in of if not axis_kind(name))
    if project.main_metric in counts:
        return project.main_metric
    most = max(counts.values(), default=0)
    return telling([name for name, count in counts.items() if count == most])
