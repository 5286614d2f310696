"""`meuse pull`, from a host that the operator allowed and from a hub, over TLS, to the registry."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from e2e.conftest import Platform
from e2e.helpers import ended, get, refused, start, succeeded
from e2e.web import Certificate, Site, serving
from helpers_gguf import FIELDS, gguf
from helpers_hub import COMMIT, sibling
from pull.folders import folder
from pull.shop import wheel

ENDLESS = "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
REACHING = "{{ messages.__class__.__mro__ }}"


@pytest.fixture
def site(certificate: Certificate) -> Iterator[Site]:
    with serving(certificate) as site:
        yield site


def pull(platform: Platform, *words: str) -> subprocess.CompletedProcess[str]:
    there = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")}
    there |= {"MEUSE_URL": platform.url, "MEUSE_KEY": platform.admin_key}
    return subprocess.run(
        [sys.executable, "-m", "meuse", "pull", *words],
        env=there, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_file_comes_by_url_and_goes_on_where_it_broke_off(
    admin: httpx.Client, platform: Platform, site: Site
) -> None:
    """On the command line; what is registered is what the host had."""
    site.files["/models/web-tiny.gguf"] = content = gguf()
    site.cuts = 1
    source = f"{site.url}/models/web-tiny.gguf"
    done = pull(platform, source)
    assert done.returncode == 0, done.stderr
    assert "web-tiny:1" in done.stdout
    (first, rest) = site.asked
    assert first == ("/models/web-tiny.gguf", "")
    assert rest == ("/models/web-tiny.gguf", f"bytes={len(content) // 2}-")
    version = get(admin, "/api/models/web-tiny/versions/1")
    assert version["report"]["generation"]["source"] == source
    assert version["lineage"]["code_digest"] == hashlib.sha256(content).hexdigest()
    weights = next(a for a in version["artifacts"] if a["format"] == "file")
    assert weights["digest"] == hashlib.sha256(content).hexdigest()


def test_a_wheel_comes_by_url(admin: httpx.Client, site: Site) -> None:
    """With its licence; its code stays out."""
    site.files["/llm_tiny-1.0-py3-none-any.whl"] = wheel()
    source = f"{site.url}/llm_tiny-1.0-py3-none-any.whl"
    made = succeeded(admin, start(admin, "import", source=source, model_name="web-wheel"))
    assert made["model"] == "web-wheel:1"
    version = get(admin, "/api/models/web-wheel/versions/1")
    assert version["report"]["generation"]["licence"] == "apache-2.0"
    assert all(not a["name"].endswith(".py") for a in version["artifacts"])


def test_a_url_may_tell_the_digest_of_its_file(admin: httpx.Client, site: Site) -> None:
    """It is checked, and not sent; another file is not kept, and no digest is refused at once."""
    site.files["/sure.gguf"] = content = gguf()
    source = f"{site.url}/sure.gguf#sha256="
    digest = hashlib.sha256(content).hexdigest()
    made = succeeded(admin, start(admin, "import", source=source + digest))
    assert made["model"] == "sure:1"
    assert made["report"]["generation"]["source"] == source + digest
    done = ended(admin, start(admin, "import", source=source + "0" * 64, model_name="unsure"))
    assert (done["error"]["code"], done["error"]["field"]) == ("invalid_data", "source")
    assert digest in done["error"]["message"]
    assert admin.get("/api/models/unsure").status_code == 404
    assert [path for path, _ in site.asked] == ["/sure.gguf"] * 2
    spec = {"source": source + "main"}
    answer = admin.post("/api/jobs", json={"kind": "import", "spec": spec})
    refused(answer, 400, "invalid_field", "source")


def test_a_file_comes_of_the_hub(admin: httpx.Client, site: Site) -> None:
    """What is registered tells the commit, and the licence of the model card."""
    unsaid = {name: value for name, value in FIELDS.items() if name != "general.license"}
    content, path = gguf(unsaid), "web-hub.gguf"
    told = {"id": "owner/tiny", "sha": COMMIT, "cardData": {"license": "mit"}}
    told["siblings"] = [sibling(path, content), sibling("own.py", b"raise SystemExit")]
    site.files["/api/models/owner/tiny?blobs=true"] = json.dumps(told).encode()
    site.files[f"/owner/tiny/resolve/{COMMIT}/{path}"] = content
    made = succeeded(admin, start(admin, "import", source=f"hf:owner/tiny/{path}"))
    assert made["model"] == "web-hub:1"
    generation = made["report"]["generation"]
    assert generation["source"] == f"hf:owner/tiny/{path}@{COMMIT}"
    assert generation["licence"] == "mit"
    site.files[f"/owner/tiny/resolve/{COMMIT}/{path}"] = content[::-1]
    for source, code in ((f"hf:owner/tiny/{path}", "invalid_data"), ("hf:owner/no", "not_found")):
        error = ended(admin, start(admin, "import", source=source))["error"]
        assert (error["code"], error["field"]) == (code, "source")


def test_what_does_not_come_registers_nothing(
    admin: httpx.Client, platform: Platform, site: Site
) -> None:
    """A file that is not there, one that lies, a host that nobody allowed."""
    site.files["/liar.gguf"] = gguf(cut=1)
    for path, code in (("/nothing.gguf", "unavailable"), ("/liar.gguf", "invalid_data")):
        job = start(admin, "import", source=site.url + path, model_name="web-none")
        done = ended(admin, job)
        assert (done["status"], done["error"]["code"]) == ("failed", code), done["error"]
    done = pull(platform, "https://127.0.0.1:1/m.gguf")
    assert done.returncode == 1
    assert "pull_allowed_hosts" in done.stderr
    assert admin.get("/api/models/web-none").status_code == 404


@pytest.mark.parametrize(
    ("template", "told"),
    [(ENDLESS, "(did|does) not end within"), (REACHING, "access to attribute '__class__'")],
)
def test_a_hostile_template_registers_nothing(
    admin: httpx.Client, platform: Platform, template: str, told: str
) -> None:
    """Of a GGUF file and of a checkpoint: the job fails with the reason, and the platform takes
    the next."""
    imports = platform.home / "import" / "hostile"
    (imports / "checkpoint").mkdir(parents=True, exist_ok=True)
    file = imports / "hostile.gguf"
    file.write_bytes(gguf({**FIELDS, "tokenizer.chat_template": template}))
    for path in (file, folder(imports / "checkpoint", chat_template__jinja=template.encode())):
        job = start(admin, "import", source=f"file:{path}", model_name="web-hostile")
        done = ended(admin, job)
        assert (done["status"], done["error"]["code"]) == ("failed", "invalid_data"), done["error"]
        assert done["error"]["field"] == "model"
        assert re.search(f"the chat template .*{told}", done["error"]["message"])
    assert admin.get("/api/models/web-hostile").status_code == 404
