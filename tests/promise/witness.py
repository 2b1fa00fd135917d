"""A job that runs through a fault, and all that must be true of it afterwards."""

from dataclasses import dataclass
from pathlib import Path

from tests.faults import history, workload
from tests.faults.processes import Born, wait_for
from tests.faults.stack import PROJECT, Agent, Job, Lab, LocalAgent, older_generations, sha256_of

#: The whole life of a job that nothing happened to.
UNDISTURBED = ["submitted", "assigned", "accepted", "started", "ended"]
ENDS_SECONDS = 60.0  # after it was told to
#: Of a job that is to outlast a fault, however slow the machine: it ends when it is told to.
UNTIL_TOLD_SECONDS = 300.0
ARRIVES_SECONDS = 45.0


@dataclass(frozen=True)
class Witness:
    """A workload: `process` is its own if it was seen to run, `truth` the file of what it has
    written."""

    lab: Lab
    agent: Agent | LocalAgent
    uid: str
    process: Born | None
    truth: Path
    project: str = PROJECT

    @classmethod
    def start(
        cls,
        lab: Lab,
        agent: Agent | LocalAgent,
        seconds: float,
        truth: str = "truth",
        **more: object,
    ) -> "Witness":
        """Submit one that runs for so long, or until it is told to end; and wait until the server
        says that it runs."""
        path = agent.folder / truth
        uid = lab.submit_workload(path, seconds, **more)
        return cls(lab, agent, uid, lab.wait_running(uid), path)

    def goes_on(self) -> bool:
        """Whether it lives and writes: the same process, and a row more than before."""
        before = workload.written_rows(self.truth)
        wait_for(lambda: workload.written_rows(self.truth) > before, f"{self.uid} writes", 10)
        return self.process is not None and self.process.alive

    def ends_well(self, seconds: float = ENDS_SECONDS) -> Job:
        """It has succeeded in its first try, in the process that was first seen, and each file
        is on the server as it is on the agent's side, sent as one generation."""
        job = self.ends_well_anyhow(seconds)
        assert not older_generations(self.lab.run_dir(self.project), job["run_name"])
        return job

    def ends_well_anyhow(self, seconds: float = ENDS_SECONDS) -> Job:
        """The same, but its files may have begun anew on the way."""
        if self.truth.exists():
            workload.enough(self.truth).touch()
        job = self.lab.wait_state(self.uid, "succeeded", seconds)
        events = self.lab.events(self.uid)
        assert history.faults_of(events, job["state"]) == []
        kinds = [kind for kind in history.kinds(events) if kind != "released"]
        assert kinds == UNDISTURBED, kinds
        [attempt] = job["attempts"]
        assert attempt["exit_code"] == 0
        assert self.process is None or attempt["pid"] == self.process.pid
        self._files_arrive(job["run_name"])
        return job

    def _files_arrive(self, run_name: str) -> None:
        here, there = self.agent.run_dir(self.project), self.lab.run_dir(self.project)
        expected = sha256_of(here, run_name)
        assert {f"{run_name}.csv", f"{run_name}.log", f"{run_name}.yaml"} <= set(expected)
        wait_for(
            lambda: sha256_of(there, run_name) == expected,
            f"all files of {run_name} are equal on both sides: {expected}",
            ARRIVES_SECONDS,
        )
        assert sha256_of(here, run_name) == expected
        status = f"/api/sync/status/{self.uid}"
        wait_for(
            lambda: self.lab.get(status)["data"]["sync_status"] == "synced",
            f"{run_name} is said to be synced",
            ARRIVES_SECONDS,
        )
        if self.truth.exists():
            self._tells_the_truth(there / run_name)

    def _tells_the_truth(self, run: Path) -> None:
        written = workload.written_rows(self.truth)
        assert workload.faults_of(run.with_suffix(".csv").read_bytes(), written) == []
        assert workload.faults_of_log(run.with_suffix(".log").read_bytes(), written) == []
        checkpoint = run.with_suffix(".pt")
        assert not checkpoint.exists() or workload.is_whole(checkpoint.read_bytes())
