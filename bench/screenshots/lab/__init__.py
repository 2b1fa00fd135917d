"""The lab that the pictures are of, made up for them.

    python -m bench.screenshots.lab [--empty]

Fills the database of LAB_DATA_DIR, says so in a line, and then stands in for the agents until its
standard input ends.
"""
