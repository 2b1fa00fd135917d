"""The files of runs, on their way to the server and back (protocol §6, §7)."""
