"""The numbers to hold, each one command: `python -m bench.NAME`, or all by `python -m bench`."""
