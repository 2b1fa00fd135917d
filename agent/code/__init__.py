"""The code that attempts run in: snapshots, commits, and what lies on this host."""
