"""Policy `requeue`: a job whose host is lost runs elsewhere, and never at two places at once."""

import time

from agent import wire
from tests.faults import history, workload
from tests.faults.processes import wait_for
from tests.faults.stack import Stack

LATE_SECONDS = 25.0  # for both clocks, on a busy machine
SECOND_TRY_SECONDS = 60.0


def test_a_lost_hosts_job_runs_elsewhere_only_after_its_process_there_has_ended(stack: Stack):
    lab = stack.lab().start()
    proxy = stack.proxy(lab)
    lost = stack.agent(lab, "gpu1", proxy.url).start()
    truth = lost.folder / "truth"
    uid = lab.submit_workload(
        truth, wire.LEASE_SECONDS + SECOND_TRY_SECONDS, on_device_lost="requeue"
    )
    first = lab.wait_running(uid)
    stack.agent(lab, "gpu2").start()

    proxy.cut()
    wait_for(lambda: not first.alive, "its supervisor ends it", wire.FENCE_SECONDS + LATE_SECONDS)
    ended_at = time.time()
    rows = workload.written_rows(truth)
    assert lab.job(uid)["state"] == "running"  # the server does not know, and waits
    wait_for(lambda: len(lab.job(uid)["attempts"]) == 2, "it is queued again", LATE_SECONDS + 40)
    second = lab.wait_running(uid)
    proxy.heal()
    lost.wait_healthy()
    time.sleep(5)

    assert second.created_at > ended_at
    assert second.alive
    assert workload.written_rows(truth) > rows
    [given_up, current] = lab.job(uid)["attempts"]
    assert (given_up["device"], given_up["outcome"]) == ("gpu1", "lost")
    assert (current["device"], current["pid"], current["ended_at"]) == ("gpu2", second.pid, None)
    lab.post(f"/api/jobs/{uid}/cancel/")
    lab.wait_state(uid, "cancelled")
    assert history.faults_of(lab.events(uid), "cancelled") == []
