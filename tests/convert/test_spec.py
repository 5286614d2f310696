"""What an import is asked for, and which files of the machine it may read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from meuse.convert.spec import ImportSpec, allowed_path
from meuse.core.errors import MeuseError

GOOD: dict[str, Any] = {"model_name": "m", "format": "sklearn", "source": {"upload": "a" * 64}}


def test_a_spec_comes_back() -> None:
    spec = ImportSpec.from_dict({**GOOD, "columns": {"age": "number"}, "classes": ["a", "b"]})
    assert ImportSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model_name": "no/name"}, "model_name"),
        ({"format": "onnx"}, "format"),
        ({"source": {}}, "source"),
        ({"source": {"upload": "a" * 64, "path": "/x"}}, "source"),
        ({"source": {"upload": "../x"}}, "source.upload"),
        ({"source": {"hub": "a/b"}}, "source.hub"),
        ({"format": "huggingface", "source": {"hub": "../../x"}}, "source.hub"),
        ({"classes": ["a"]}, "classes"),
        ({"classes": ["a", "a"]}, "classes"),
        ({"columns": ["a"]}, "columns"),
        ({"columns": {"a": "float"}}, "columns.a"),
        ({"what": 1}, "what"),
    ],
)
def test_what_a_spec_refuses(change: dict[str, Any], field: str) -> None:
    with pytest.raises(MeuseError) as caught:
        ImportSpec.from_dict({**GOOD, **change})
    assert (caught.value.code, caught.value.field) == ("invalid_field", field)


def test_paths_lie_in_folders_that_are_allowed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "models", tmp_path / "secrets"
    inside.mkdir(), outside.mkdir()
    (inside / "m.pkl").touch(), (outside / "key").touch()
    (inside / "link").symlink_to(outside / "key")
    roots = os.pathsep.join([str(tmp_path / "absent"), str(inside)])
    assert allowed_path(str(inside / "m.pkl"), roots) == inside / "m.pkl"
    for bad in (outside / "key", inside / ".." / "secrets" / "key", inside / "link"):
        with pytest.raises(MeuseError) as caught:
            allowed_path(str(bad), roots)
        assert caught.value.code == "forbidden"
    with pytest.raises(MeuseError) as caught:
        allowed_path(str(inside / "absent"), roots)
    assert caught.value.code == "not_found"
    with pytest.raises(MeuseError):
        allowed_path(str(inside / "m.pkl"), "")
