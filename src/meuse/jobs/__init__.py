"""Durable work: rows, queue, child processes. Alone in knowing dbos.

Knows nothing of training or compression: a `JobKind` says how to check, prepare and
complete one kind, and the composition root says which command runs the heavy part.
"""
