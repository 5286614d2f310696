"""generation.shelf: which adapters are in memory, and what is known of those that are not."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections import Counter
from typing import Any

import pytest

import helpers_lora as made
from meuse.core.errors import Code, MeuseError, not_found
from meuse.serve.generation import lora, manifest
from meuse.serve.generation.lora import Layer
from meuse.serve.generation.manifest import File, Manifest
from meuse.serve.generation.shelf import Shelf

SIZES = {"layers.0.self_attn.q_proj": (6, 8)}
LAYERS = {name: Layer(f"model.{name}", *sizes) for name, sizes in SIZES.items()}


class Store:
    """Adapters by digest; counts what is read of it."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.fetched: Counter[str] = Counter()

    def keep(self, body: bytes) -> File:
        digest = hashlib.sha256(body).hexdigest()
        self.bodies[digest] = body
        return File("", digest, len(body))

    def add(self, seed: int, **changes: Any) -> str:
        config = json.dumps(made.config(**changes)).encode()
        weights = made.safetensors(made.matrices(SIZES, seed))
        kept = {name: self.keep(body) for name, body in
                {lora.CONFIG: config, lora.WEIGHTS: weights}.items()}  # fmt: skip
        files = tuple(File(name, file.digest, file.size) for name, file in kept.items())
        return self.keep(manifest.encode(Manifest("adapter", files, "llama", 64, 259, 1))).digest

    def fetch(self, digest: str) -> bytes:
        self.fetched[digest] += 1
        if digest not in self.bodies:
            raise not_found("blob", digest)
        return self.bodies[digest]


@pytest.fixture
def store() -> Store:
    return Store()


def shelf(store: Store, most: int = 2) -> Shelf:
    return Shelf(store.fetch, LAYERS, LAYERS, lambda body, scale: (body, scale), most)


def caught(call: Any, digest: str) -> MeuseError:
    with pytest.raises(MeuseError) as found:
        call(digest)
    return found.value


def test_a_refusal_stays_without_being_read_again_and_does_not_grow(store: Store) -> None:
    """Each caller is told the same by an exception of its own: one that is raised again keeps
    every stack that it passed, with prompts in it."""
    bad, it = store.add(1, peft_type="IA3"), shelf(store)
    first = caught(it.check, bad)
    again = [caught(call, bad) for call in (it.check, it.take) for _ in range(3)]
    assert len({id(error) for error in (first, *again)}) == 7
    assert {(e.code, e.message, e.field) for e in (first, *again)} == {
        (Code.INVALID_DATA, first.message, "adapter")
    }
    assert len({len(traceback.extract_tb(error.__traceback__)) for error in again[:3]}) == 1
    assert store.fetched[bad] == 1


def test_asking_puts_none_away(store: Store) -> None:
    """Others may be waiting for those that are here: it is the turn that puts one away."""
    it, digests = shelf(store), [store.add(seed) for seed in range(3)]
    first, second = (it.take(digest) for digest in digests[:2])
    it.check(digests[2])
    store.fetched.clear()
    assert (it.take(digests[0]), it.take(digests[1])) == (first, second)
    assert not store.fetched
    it.take(digests[2])
    assert len(it) == 2


def test_the_one_that_was_not_asked_for_longest_is_put_away(store: Store) -> None:
    """Not the one that came first."""
    it, digests = shelf(store), [store.add(seed) for seed in range(3)]
    first, _ = (it.take(digest) for digest in digests[:2])
    it.take(digests[0])
    it.take(digests[2])
    store.fetched.clear()
    assert it.take(digests[0]) is first
    assert not store.fetched
    it.take(digests[1])
    assert store.fetched[digests[1]] == 1


def test_one_that_was_judged_good_is_not_read_again_to_judge_it(store: Store) -> None:
    """Nor when it was put away meanwhile."""
    it, digests = shelf(store, 1), [store.add(seed) for seed in range(3)]
    for digest in digests:
        it.take(digest)
    store.fetched.clear()
    for digest in digests * 2:
        it.check(digest)
    assert not store.fetched


def test_with_room_it_is_brought_when_it_is_asked_for(store: Store) -> None:
    it, digest = shelf(store), store.add(1)
    it.check(digest)
    store.fetched.clear()
    it.take(digest)
    assert not store.fetched


def test_files_that_are_not_here_yet_are_looked_for_again(store: Store) -> None:
    it, digest = shelf(store), store.add(1)
    body = store.bodies.pop(digest)
    assert caught(it.check, digest).code == Code.UNAVAILABLE
    store.bodies[digest] = body
    it.check(digest)


def test_one_on_layers_that_the_engine_was_not_made_for_is_for_another_replica(
    store: Store,
) -> None:
    """It is no broken adapter, and nothing to remember: this engine would leave its layers out."""
    layers = LAYERS | {"layers.0.mlp.up_proj": Layer("model.layers.0.mlp.up_proj", 6, 8)}
    able = lora.of_names(layers, ["up_proj"])
    assert set(able) == {"layers.0.mlp.up_proj"}
    it, digest = Shelf(store.fetch, layers, able, lambda *made: made, 2), store.add(1)
    for call in (it.check, it.take):
        error = caught(call, digest)
        assert (error.code, "layers.0.self_attn.q_proj" in error.message) == (
            Code.UNAVAILABLE,
            True,
        )
    assert len(it) == 0
