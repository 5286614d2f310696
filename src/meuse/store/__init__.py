"""Databases and blobs. Alone in knowing SQL; adapters of `core.ports`.

Import the module you need: this package imports nothing, so that a process that only reads
blobs does not load SQLAlchemy.
"""
