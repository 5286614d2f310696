"""deploy.picture"""

from dataclasses import replace

from meuse.core.errors import not_found
from meuse.core.nouns import (
    Artifact,
    Deployment,
    DeploymentTarget,
    Lineage,
    ModelVersion,
    Scale,
    Scope,
    Signature,
    TensorSpec,
)
from meuse.deploy import picture
from meuse.deploy.plan import Route
from meuse.serve.snapshot import AdapterEntry, GenerationEntry, Snapshot, TargetEntry


def spec(name: str, project: str = "default") -> Deployment:
    target = (DeploymentTarget("d:1"),)
    return Deployment(name, Scope("acme", project), 3, target, Scale(), ("other",), 500, 0)


def version(_spec: Deployment, ref: str) -> ModelVersion:
    if ref == "gone:1":
        raise not_found("model", ref)
    tensors = (TensorSpec("input", "FP32", (-1, 4)),)
    return ModelVersion(
        "d", 1, "classification", (Artifact("m", "onnx", "a" * 64, 1),),
        Signature(tensors, tensors, ("x", "y")), {}, Lineage("j", "d:1", "", "", 0, "y"), 0,
    )  # fmt: skip


def test_routes_survive_the_round_trip() -> None:
    """What is published can be read back as the same routes: control forgets nothing."""
    routes = {"acme/default/m": (Route("d:1", 100, ("r1", "r2")),)}
    entries = picture.deployments([spec("m")], routes, version)
    assert picture.routes_of(Snapshot(deployments=entries)) == routes
    entry = entries["acme/m"]
    assert (entry.access, entry.targets[0].classes) == (frozenset({"other"}), ("x", "y"))


def test_one_broken_deployment_holds_up_nobody() -> None:
    """A route whose version is gone is published empty; its neighbours are whole."""
    routes = {
        "acme/default/broken": (Route("gone:1", 100, ("r1",)),),
        "acme/default/m": (Route("d:1", 100, ("r2",)),),
    }
    entries = picture.deployments([spec("broken"), spec("m")], routes, version)
    assert entries["acme/broken"].targets == ()
    assert entries["acme/m"].targets[0].replicas[0].id == "r2"


def test_another_project_does_not_inherit_routes() -> None:
    """The same name in another project of the tenant starts with no route."""
    routes = {"acme/default/m": (Route("d:1", 100, ("r1",)),)}
    entries = picture.deployments([spec("m", "research")], routes, version)
    assert entries["acme/m"].targets == ()


def test_a_shadow_is_published_beside_the_targets() -> None:
    """With its share and its replicas; one that cannot be described is left out."""
    routes = {"acme/default/m": (Route("d:1", 100, ("r1",)),)}
    shadows = {"acme/default/m": Route("d:1", 20, ("s1",))}
    entry = picture.deployments([spec("m")], routes, version, shadows)["acme/m"]
    assert entry.shadow is not None
    assert (entry.shadow.percent, entry.shadow.target.replicas[0].id) == (20, "s1")
    gone = {"acme/default/m": Route("gone:1", 20, ("s1",))}
    entry = picture.deployments([spec("m")], routes, version, gone)["acme/m"]
    assert (entry.shadow, len(entry.targets)) == (None, 1)


def test_a_version_that_produces_text_tells_what_it_can_take() -> None:
    """Its report stands in the snapshot; one without a report is not routed."""
    routes = {"acme/default/m": (Route("d:1", 100, ("r1",)),)}
    told = {"context": 2048, "tokens_per_byte": 3.0, "family": "hermes", "layout": "gguf",
            "template_tokens": 40, "adapters": []}  # fmt: skip
    law = {"law": AdapterEntry("law:1", "d" * 64)}
    texts = replace(version(spec("m"), "d:1"), task="text-generation", created_ms=7)

    def published(report: dict[str, object]) -> tuple[TargetEntry, ...]:
        found = replace(texts, report=report)
        entries = picture.deployments(
            [spec("m")], routes, lambda *_: found, adapters=lambda *_: law
        )
        return entries["acme/m"].targets

    (target,) = published({"generation": told})
    assert target.generation == GenerationEntry(2048, 3.0, 40, "hermes", law)
    assert target.created_ms == 7
    assert published({}) == ()
    (plain,) = picture.deployments([spec("m")], routes, version)["acme/m"].targets
    assert plain.generation is None
