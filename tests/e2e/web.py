"""A server of files over TLS on loopback, with a certificate of its own."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Certificate:
    """`own` holds key and certificate; `trusted` is a bundle of this machine's authorities and
    this one."""

    port: int
    own: Path
    trusted: Path


def certified(folder: Path, port: int) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    own, trusted = folder / "own.pem", folder / "trusted.pem"
    own.write_bytes(private + public)
    known = ssl.get_default_verify_paths().cafile
    trusted.write_bytes((Path(known).read_bytes() if known else b"") + b"\n" + public)
    return Certificate(port, own, trusted)


@dataclass(slots=True)
class Site:
    """What the server has, by path; `cuts`: how often it still breaks off in the middle;
    `asked`: (path, range) of each request."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        wanted = self.headers.get("range", "")
        self.site.asked.append((self.path, wanted))
        content = self.site.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", f'"{hash(content)}"')
        if wanted:
            self.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.site.cuts:
            self.site.cuts -= 1
            self.close_connection = True
            body = body[: len(body) // 2]
        self.wfile.write(body)


@contextmanager
def serving(certificate: Certificate) -> Iterator[Site]:
    """A site that listens while the block runs."""
    site = Site(f"https://127.0.0.1:{certificate.port}")
    handler = type("Bound", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", certificate.port), handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.own)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
