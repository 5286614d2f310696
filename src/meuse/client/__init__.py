"""The Python SDK: the same verbs over HTTP. Knows the public API and nothing behind it."""

from meuse.client.client import Client

__all__ = ["Client"]
