"""Producing text: what is asked, the engine port, and the replica that runs it.

Knows frames and language models' files; knows no key, no deployment and no HTTP.
"""
