"""No database connection is open while a process forks.

A child inherits not only SQLite's files but its memory of which locks this process holds; the
locks themselves belong to the parent alone (fcntl(2)). A connection that the child then opens
for itself takes none, since it believes to have them, and the next process that opens the
database finds itself alone, and folds and deletes the write-ahead log that the child still
writes to: what is committed there is lost. django-q2's sentinel forks all its life, so closing
before each fork is the only order that holds (https://www.sqlite.org/howtocorrupt.html, 2.6).
"""

import os

from django.db import connections


def close_connections_before_forks() -> None:
    """Call it once in a process; its children inherit the rule. They fork from one thread."""
    os.register_at_fork(before=connections.close_all)
