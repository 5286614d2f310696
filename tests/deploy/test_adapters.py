"""deploy.adapters: which adapters fit a deployment, and what they need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.nouns import (
    GENERATION,
    Adapter,
    Artifact,
    Deployment,
    EngineOptions,
    Lineage,
    ModelVersion,
    Scope,
    Signature,
)
from meuse.core.ports import RegistryStore
from meuse.deploy import adapters, generation
from meuse.deploy.spec import parse

SCOPE = Scope("acme")
MIB = 1 << 20


def made(ref: str, parent: str | None = None, **told: Any) -> ModelVersion:
    model, _, number = ref.partition(":")
    report = {"layout": "ir", "context": 64, "kv_bytes_per_token": 8, "weight_bytes": MIB, **told}
    return ModelVersion(
        model, int(number), GENERATION, (Artifact("manifest.json", "llm", ref, 9),),
        Signature((), ()), {}, Lineage("job", "", "", "", 0, "", parent), 0,
        {"generation": report},
    )  # fmt: skip


def adapter(ref: str, base: str, **told: Any) -> ModelVersion:
    return made(ref, base, layout="adapter", base=base, dora=False, **told)


class Registry:
    """smollm2:1 (GGUF) ← :2 (IR) ← :3 (int8); other:1 by itself; adapters."""

    def __init__(self) -> None:
        versions = [
            made("smollm2:1", layout="gguf"),
            made("smollm2:2", "smollm2:1"),
            made("smollm2:3", "smollm2:2"),
            made("other:1"),
            made("lost:1", "gone:4"),
            made("loop:1", "loop:1"),
            adapter("polite:1", "smollm2:1"),
            adapter("late:1", "smollm2:3"),
            adapter("dora:1", "smollm2:1"),
        ]
        self._versions = {version.ref: version for version in versions}
        self._versions["dora:1"].report["generation"]["dora"] = True

    def get_version(self, scope: Scope, model: str, number: int) -> ModelVersion:
        if (found := self._versions.get(f"{model}:{number}")) is None:
            raise not_found("version", f"{model}:{number}")
        return found

    def versions(self, scope: Scope, model: str) -> list[ModelVersion]:
        return [version for version in self._versions.values() if version.model == model]


def store() -> Any:
    return cast("RegistryStore", Registry())


def wanted(model: str, **named: str) -> Deployment:
    return parse(SCOPE, "chat", {"model": model, "adapters": named})


def put(model: str, **named: str) -> Deployment:
    registry = store()
    base = registry.get_version(SCOPE, *_parts(model))
    return adapters.pinned(registry, wanted(model, **named), [base])[0]


def _parts(ref: str) -> tuple[str, int]:
    model, _, number = ref.partition(":")
    return model, int(number)


def test_an_adapter_fits_its_base_and_all_that_was_made_of_it() -> None:
    registry = store()
    polite, late = (registry.get_version(SCOPE, name, 1) for name in ("polite", "late"))
    for number, fits in ((1, (True, False)), (2, (True, False)), (3, (True, True))):
        base = registry.get_version(SCOPE, "smollm2", number)
        assert fits == tuple(adapters.fits(registry, SCOPE, a, base) for a in (polite, late))
    for other in ("other", "lost", "loop"):
        base = registry.get_version(SCOPE, other, 1)
        assert not adapters.fits(registry, SCOPE, polite, base)


def test_versions_are_pinned_and_named_in_order() -> None:
    found = put("smollm2:3", polite="polite", late="late:1")
    assert found.adapters == (Adapter("late", "late:1"), Adapter("polite", "polite:1"))


def test_replicas_are_made_for_the_layers_that_the_adapters_change_together() -> None:
    """So they are replaced when others come, and stay when an adapter of the same layers does."""
    registry = store()
    for name, layers in (("polite", ["v_proj", "q_proj"]), ("late", ["up_proj", "q_proj"])):
        registry.get_version(SCOPE, name, 1).report["generation"]["targets"] = layers
    base = registry.get_version(SCOPE, "smollm2", 3)

    def pinned(**named: str) -> Deployment:
        return adapters.pinned(registry, wanted("smollm2:3", **named), [base])[0]

    one, same, both = (
        pinned(a="polite:1"),
        pinned(a="polite", b="polite"),
        pinned(b="late", a="polite"),
    )
    assert one.adapters == (Adapter("a", "polite:1", ("q_proj", "v_proj")),)
    assert one.adapted_layers == same.adapted_layers == ("q_proj", "v_proj")
    assert both.adapted_layers == ("q_proj", "up_proj", "v_proj")
    assert one.revision == same.revision != both.revision
    untold = replace(both, adapters=(*both.adapters, Adapter("c", "old:1")))
    assert untold.adapted_layers == ()
    assert untold.revision == put("smollm2:3", polite="polite").revision


@pytest.mark.parametrize(
    ("model", "named", "code", "said"),
    [
        ("smollm2:1", "polite:1", Code.INVALID_FIELD, "meuse compress smollm2:1"),
        ("smollm2:2", "late:1", Code.INVALID_FIELD, "smollm2:2 was not made"),
        ("other:1", "polite:1", Code.INVALID_FIELD, "other:1 was not made"),
        ("smollm2:2", "smollm2:1", Code.INVALID_FIELD, "is no adapter"),
        ("smollm2:2", "dora:1", Code.INVALID_FIELD, "merge"),
        ("smollm2:2", "gone:1", Code.NOT_FOUND, "gone:1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    model: str, named: str, code: Code, said: str
) -> None:
    with pytest.raises(MeuseError) as caught:
        put(model, law=named)
    assert (caught.value.code, caught.value.field) == (code, "adapters.law")
    assert said in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("body", [["polite:1"], {"Po lite": "polite:1"}, {"a:b": "x:1"}, {"a": 1}])
def test_a_spec_that_is_none_is_refused(body: Any) -> None:
    with pytest.raises(MeuseError) as caught:
        parse(SCOPE, "chat", {"model": "smollm2:2", "adapters": body})
    assert (caught.value.field or "").startswith("adapters")


def test_an_adapter_alone_is_no_deployment_and_others_have_none() -> None:
    registry = store()
    polite = registry.get_version(SCOPE, "polite", 1)
    with pytest.raises(MeuseError) as caught:
        generation.complete(wanted("polite:1"), {}, [polite], 1 << 40)
    assert "is an adapter" in caught.value.message
    with pytest.raises(MeuseError) as caught:
        adapters.pinned(registry, wanted("x:1", law="polite:1"), [replace(polite, report={})])
    assert caught.value.field == "adapters.law"


def test_more_of_them_are_not_another_way_to_run_a_replica() -> None:
    """The first one is: an engine is made to take adapters. Then nothing is started anew."""
    plain, one, two = (
        wanted("smollm2:2", **named).revision
        for named in ({}, {"a": "polite:1"}, {"a": "polite:1", "b": "late:1"})
    )
    assert plain == "//64/1024/"
    assert one == two != plain
    fewer = parse(
        SCOPE, "chat",
        {"model": "m:1", "adapters": {"a": "polite:1"}, "engine": {"max_adapters": 2}},
    )  # fmt: skip
    assert fewer.revision != one


def test_a_replica_needs_memory_for_the_largest_that_it_may_hold() -> None:
    some = [adapter(f"a:{i}", "smollm2:1", weight_bytes=i * MIB) for i in range(1, 11)]
    assert adapters.held(some, EngineOptions(max_adapters=2)) == adapters.COPIES * 19 * MIB
    assert adapters.held(some[:1], EngineOptions()) == adapters.COPIES * MIB
    base = made("smollm2:3", weight_bytes=100 * MIB)
    options = EngineOptions(cache_mb=640)
    more = generation.need(base, options, 19 * MIB) - generation.need(base, options)
    assert more in (0, 19 * MIB)


def test_vllm_takes_them_on_a_checkpoint() -> None:
    registry = Registry()
    base = made("plain:1", layout="hf")
    registry._versions |= {"plain:1": base, "fine:1": adapter("fine:1", "plain:1")}
    body = {"model": "plain:1", "engine": {"name": "vllm"}, "adapters": {"fine": "fine:1"}}
    spec = parse(SCOPE, "chat", body)
    found, _ = adapters.pinned(cast("RegistryStore", registry), spec, [base])
    told = adapters.digests(cast("RegistryStore", registry), found, base)
    assert told == {"fine": "fine:1"}  # here a digest is the reference
    with pytest.raises(MeuseError) as caught:
        adapters.pinned(cast("RegistryStore", registry), spec, [made("smollm2:2")])
    assert "a safetensors checkpoint" in str(caught.value)
