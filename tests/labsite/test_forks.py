"""What is committed stays committed, whoever forks."""

import os
import subprocess
import sys

SCRIPT = """
import os, subprocess, sys, time
import django
django.setup()
from django.core.management import call_command
from django.db import connection
call_command("migrate", verbosity=0)
from experiments.models import Project
Project.objects.create(name="before")        # this process holds a connection
pid = os.fork()
if pid == 0:
    Project.objects.create(name="first")
    time.sleep(1.5)
    Project.objects.create(name="second")    # acknowledged: it must be there for ever
    os._exit(0)
time.sleep(0.5)
connection.close()
reader = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); " \
         "c.execute('select * from experiments_project').fetchall(); c.close()"
subprocess.run([sys.executable, "-c", reader, connection.settings_dict["NAME"]], check=True)
os.waitpid(pid, 0)
print(sorted(Project.objects.values_list("name", flat=True)))
"""


def test_a_row_committed_by_a_forked_process_is_not_lost(tmp_path):
    env = {
        **os.environ,
        "LAB_DATA_DIR": str(tmp_path),
        "LAB_DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "DJANGO_SETTINGS_MODULE": "labsite.settings",
    }

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=60
    )

    assert done.stdout.strip() == "['before', 'first', 'second']", done.stderr
