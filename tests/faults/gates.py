"""Points in the programs at which a test may hold them: to be killed there, or let go.

A gate is a function of the program that `install` wraps, in the program's own process and before
its main(): the product knows nothing of it. It is open until the file `NAME.armed` exists; whoever
comes first and is meant renames that to `NAME.reached`, and waits until this is gone.

    gates = Gates(folder)              # the test's side
    gates.arm("after write", "k7")     # for the file of a run of project k7
    gates.wait_reached("after write")
    ...                                # kill
    gates.open("after write")

Standard library only: a job's supervisor loads it too.
"""

import functools
import importlib
import os
import time
from contextlib import suppress

LOOK_SECONDS = 0.005

#: Program -> gate -> (module, function or class and method, whether it holds after the call).
PLACES = {
    "agent": {
        "accepted": ("agent.journal", "Journal.accept", True),
        "resume laid in": ("agent.files.resume", "lay_in", True),
        "starting": ("agent.journal", "Journal.starting", True),
        "born": ("agent.journal", "Journal.running", False),
        "cancel asked": ("agent.attempts", "Attempts._stop", False),
        "exit not reported": ("agent.events", "EventLoop._deliver", False),
        "exit reported": ("agent.journal", "Journal.settle", False),
        "released not reported": ("agent.events", "EventLoop._deliver", False),
        "finishing": ("agent.files.growing", "Growing._confirm", False),
    },
    "runlab": {
        "poll sent": ("experiments.leases", "_take_in", False),
        "assigned": ("experiments.leases", "_reply", False),
        "delta in flight": ("sync.append", "check_still", False),
        "after write": ("sync.storage", "write_at", True),
        "after commit": ("sync.append", "change", True),
    },
    "shim": {
        "ending": ("shim", "conclude", False),
    },
}
#: Where else a gate stands: small deltas have a door of their own.
ALSO = {
    "runlab": {
        "delta in flight": ("sync.steady", "check_still", False),
        "after commit": ("sync.steady", "_taken", False),
    },
}


def _has_event(kind):
    def matches(project, args):
        journal = getattr(args[0], "_journal", args[0])
        found = journal.find(args[1].attempt_id)
        return args[1].event.type.value == kind and _runs(found, project)

    return matches


def _runs(attempt, project):
    return attempt is not None and attempt.order.project == project


def _job_of(row_or_step):
    return getattr(row_or_step, "target", row_or_step).job


#: Whether a call is about a run of that project; its arguments as they come.
MATCHES = {
    "accepted": lambda project, args: args[1].project == project,
    "resume laid in": lambda project, args: args[1].project == project,
    "starting": lambda project, args: _runs(args[0].find(args[1]), project),
    "born": lambda project, args: _runs(args[0].find(args[1]), project),
    "cancel asked": lambda project, args: _runs(args[0]._around.journal.find(args[1]), project),
    "exit not reported": _has_event("exited"),
    "exit reported": _has_event("exited"),
    "released not reported": _has_event("released"),
    "finishing": lambda project, args: args[0].run.project == project,
    "poll sent": lambda project, args: any(
        attempt.job.project.name == project for attempt in args[2].values()
    ),
    "assigned": lambda project, args: any(order.project == project for order in args[3]),
    "delta in flight": lambda project, args: args[0].job.project.name == project,
    "after write": lambda project, args: f"/{project}/" in str(args[0].path),
    "after commit": lambda project, args: _job_of(args[0]).project.name == project,
    "ending": lambda project, args: True,
}


def install(folder, program):
    """Wrap the functions that `program` may be held at."""
    places = [*PLACES[program].items(), *ALSO.get(program, {}).items()]
    for name, (module_name, path, after) in places:
        holder = importlib.import_module(module_name)
        *classes, attribute = path.split(".")
        for class_name in classes:
            holder = getattr(holder, class_name)
        wrapped = _held(folder, name, getattr(holder, attribute), after)
        setattr(holder, attribute, wrapped)


def _held(folder, name, function, after):
    armed, reached = (os.path.join(folder, f"{name}.{word}") for word in ("armed", "reached"))

    def hold(args):
        with suppress(FileNotFoundError):
            with open(armed) as file:
                project = file.read()
            if MATCHES[name](project, args):
                os.rename(armed, reached)  # who comes second finds nothing to rename
                while os.path.exists(reached):
                    time.sleep(LOOK_SECONDS)

    @functools.wraps(function)
    def passed(*args, **kwargs):
        if not after:
            hold(args)
        result = function(*args, **kwargs)
        if after:
            hold(args)
        return result

    return passed


class Gates:
    """A test's hand on the gates of the programs that were started with `folder`."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def arm(self, name, project=""):
        """Hold the next one that is about a run of `project`."""
        unfinished = self.folder / f"{name}.new"
        unfinished.write_text(project)
        unfinished.rename(self.folder / f"{name}.armed")

    def is_reached(self, name):
        return (self.folder / f"{name}.reached").exists()

    def open(self, name):
        """Let go whoever is held, and hold nobody any more."""
        for word in ("armed", "reached"):
            (self.folder / f"{name}.{word}").unlink(missing_ok=True)
