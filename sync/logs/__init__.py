"""A run's log as lines: where each begins, and which of them hold what somebody looks for.

lines    how many lines there are before each place of the file, kept beside it
search   the lines that a text or a pattern is found in, a stretch of the file at a time
"""
