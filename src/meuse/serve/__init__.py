"""Serving: the snapshot that routes are read from, frames, replicas and engines.

`snapshot` and `frames` know msgspec alone, because gateway workers import them; engines
load their libraries only inside a replica.
"""
