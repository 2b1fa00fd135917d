"""Snapshots of the code that jobs run in: taking them in, keeping them, giving them out.

code/ab/abcdef…      a file, or a manifest, by the SHA-256 of its content
code/.lock           held by those who write, alone by whoever removes
"""
