"""Compression: make a version smaller and faster, prove what it cost, refuse what cost too much.

Knows data, evaluation and the fields of training; sees engines through `core.ports` only.
"""
