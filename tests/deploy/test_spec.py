"""deploy.spec"""

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import DeploymentTarget, Scale, Scope
from meuse.deploy.spec import parse

MINE = Scope("acme")


def test_a_model_alone_takes_all_traffic() -> None:
    """{model} is one target of weight 100, one replica, nobody else allowed."""
    made = parse(MINE, "digits", {"model": "digits:1"})
    assert (DeploymentTarget("digits:1", 100),) == made.targets
    assert (Scale(1, 1), ()) == (made.scale, made.access)


def test_targets_share_by_weight() -> None:
    """Several targets with weights that add up to 100, and access by tenant."""
    rows = [{"model": "d:1", "weight": 90}, {"model": "d:2", "weight": 10}]
    made = parse(MINE, "d", {"targets": rows, "access": {"tenants": "*"}, "scale": {"min": 2}})
    assert [t.weight for t in made.targets] == [90, 10]
    assert (("*",), Scale(2, 2)) == (made.access, made.scale)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model"),
        ({"model": "d:1", "targets": []}, "model"),
        ({"model": 3}, "model"),
        ({"targets": []}, "targets"),
        ({"targets": "d:1"}, "targets"),
        ({"targets": [{"weight": 100}]}, "targets[0].model"),
        ({"targets": [{"model": "d:1", "weight": 60}]}, "targets"),
        ({"targets": [{"model": "d:1", "weight": 50}, {"model": "d:1", "weight": 50}]}, "targets"),
        ({"targets": [{"model": "d:1", "weight": "all"}]}, "targets[0].weight"),
        ({"targets": [{"model": "d:1", "wait": 1}]}, "targets[0].wait"),
        ({"model": "d:1", "scale": {"min": 0}}, "scale.min"),
        ({"model": "d:1", "scale": {"min": 2, "max": 1}}, "scale.max"),
        ({"model": "d:1", "scale": {"min": True}}, "scale.min"),
        ({"model": "d:1", "scale": []}, None),
        ({"model": "d:1", "scale": 3}, "scale"),
        ({"model": "d:1", "access": ["acme"]}, "access"),
        ({"model": "d:1", "access": {"tenants": ["A"]}}, "access.tenants[0]"),
        ({"model": "d:1", "access": {"tenants": "acme"}}, "access.tenants"),
        ({"model": "d:1", "timeout_ms": 0}, "timeout_ms"),
        ({"model": "d:1", "replicas": 3}, "replicas"),
    ],
)
def test_mistakes_are_named(body: dict, field: str | None) -> None:
    """Every mistake names its field; an empty list where an object may be is no scale."""
    if field is None:
        assert Scale() == parse(MINE, "d", body).scale
        return
    with pytest.raises(MeuseError) as refusal:
        parse(MINE, "d", body)
    assert (Code.INVALID_FIELD, field) == (refusal.value.code, refusal.value.field)
