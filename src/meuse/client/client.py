"""A client of one platform with one key."""

from __future__ import annotations

from meuse.client.data import DataCalls
from meuse.client.models import ModelCalls
from meuse.client.money import MoneyCalls


class Client(DataCalls, ModelCalls, MoneyCalls):
    """`Client("http://127.0.0.1:8080", key)`. Every failure is a `MeuseError`.

    Usable as a context manager. Thread-safe, as its connection pool is.
    """

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
