"""What stands between callers and other servers: limits, allowed hosts, certificates, keys"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.rig import Rig, free_port
from gateway.upstream.conftest import CONTEXT, SEALING, Upstream, remote_target
from meuse.core.nouns import Limit


def certificate(folder: Path, name: str, *subjects: x509.GeneralName) -> tuple[str, str]:
    """Files of a certificate that vouches for itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(subjects), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(cert_file), str(key_file)


class Guarded:
    """One worker, and a deployment for each of several servers."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        right = certificate(rig.home, "right", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        other = certificate(rig.home, "other", x509.DNSName("other.example"))
        both = rig.home / "both.pem"
        both.write_text(Path(right[0]).read_text() + Path(other[0]).read_text())
        folders = [rig.home / name for name in ("plain", "right", "other")]
        for folder in folders:
            folder.mkdir()
        self.servers = [
            Upstream(folders[0]), Upstream(folders[1], *right), Upstream(folders[2], *other),
        ]  # fmt: skip
        plain, tls, wrong = (server.port for server in self.servers)
        nowhere = free_port()
        urls = {
            "plain": f"http://127.0.0.1:{plain}/v1",
            "tls": f"https://127.0.0.1:{tls}/v1",
            "wrong": f"https://127.0.0.1:{wrong}/v1",
            "unlisted": f"http://localhost:{plain}/v1",
            "public": f"https://localhost:{tls}/v1",
            "down": f"http://127.0.0.1:{nowhere}/v1",
        }
        for name, url in urls.items():
            rig.deploy(f"acme/{name}", remote_target(url, f"{name}:1"))
        moved = remote_target(urls["tls"], "moved:1")
        assert moved.upstream is not None
        upstream = type(moved.upstream)(urls["plain"], "m", moved.upstream.sealed)
        rig.deploy("acme/moved", _with(moved, upstream))
        self.key = rig.key("acme", scopes=("infer",))
        tokens = Limit("most", "budget", 3000, "total", "completion_tokens", model="acme/plain")
        rig.limit(tokens)
        rig.publish()
        allowed = [f"http://127.0.0.1:{port}@ipv4" for port in (plain, nowhere)]
        allowed += [f"https://127.0.0.1:{port}@ipv4" for port in (tls, wrong)]
        allowed.append(f"https://localhost:{tls}")  # without leave for a private address
        os.environ["SSL_CERT_FILE"] = str(both)
        try:
            self.worker = rig.worker(external_hosts=", ".join(allowed), sealing_key=SEALING.hex())
        finally:
            del os.environ["SSL_CERT_FILE"]

    def post(self, model: str, text: str = "say 2", **more: Any) -> httpx.Response:
        return httpx.post(
            f"{self.worker.url}/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": text}], **more},
            headers={"authorization": f"Bearer {self.key}"},
            timeout=60,
            trust_env=False,
        )


def _with(target: Any, upstream: Any) -> Any:
    fields = {name: getattr(target, name) for name in target.__struct_fields__}
    return type(target)(**{**fields, "upstream": upstream})


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    rig = Rig()
    made = Guarded(rig)
    yield made
    for server in made.servers:
        server.close()
    rig.close()


def test_a_budget_bounds_what_nothing_else_does(guarded: Guarded) -> None:
    """Less than the context is left: the server is told so. What is asked for beyond it: 402."""
    assert guarded.post("plain").status_code == 200
    assert guarded.servers[0].asked()[-1]["body"]["max_tokens"] == 3000 < CONTEXT
    answer = guarded.post("plain", max_tokens=100)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-remaining-tokens"]
    assert answer.headers["x-request-id"]
    refused = guarded.post("plain", max_tokens=2999)
    assert refused.status_code == 402
    assert refused.json()["error"]["code"] == "insufficient_quota"
    guarded.post("plain", "say 20")
    assert guarded.servers[0].asked()[-1]["body"]["max_tokens"] == 3000 - 4


def test_certificates_are_verified(guarded: Guarded) -> None:
    assert guarded.post("tls").status_code == 200
    assert guarded.post("wrong").status_code == 503
    assert guarded.servers[2].asked() == []


@pytest.mark.parametrize("model", ["unlisted", "public", "moved", "down"])
def test_what_may_not_be_called_is_not(guarded: Guarded, model: str) -> None:
    """A host that is not listed, one at a private address, a key sealed for another server."""
    before = [len(server.asked()) for server in guarded.servers]
    answer = guarded.post(model)
    assert answer.status_code in (502, 503), answer.text
    assert "sk-" not in answer.text
    assert [len(server.asked()) for server in guarded.servers] == before
