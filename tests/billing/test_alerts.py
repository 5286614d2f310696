"""billing.alerts: thresholds, signatures, and posts that must not reach inside."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from meuse.billing.alerts import signing, thresholds
from meuse.billing.alerts.post import Allowed, post, target_of
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Limit, Spent

BUDGET = Limit("b", "budget", 1000, "month", "rows", tenant="acme")
NOW = 1_793_491_200_000 + 5  # 2026-11-01


@pytest.mark.parametrize(
    ("used", "reached"),
    [(0, []), (499, []), (500, [50]), (799, [50]), (800, [50, 80]), (1000, [50, 80, 100]),
     (5000, [50, 80, 100])],
)  # fmt: skip
def test_thresholds_are_reached_by_what_is_used(used: int, reached: list[int]) -> None:
    """Not by what is held: that may come back."""
    assert thresholds.reached(BUDGET, Spent(used, 999, None)) == reached


def test_money_and_prepaid_balances_have_thresholds_too() -> None:
    money = Limit("m", "budget", 1000, meter="cost", currency="EUR", aside=200)
    assert thresholds.reached(money, Spent(400, 0, None)) == [50]
    wallet = Limit("w", "budget", 0, meter="cost", currency="EUR", moves=True)
    assert thresholds.reached(wallet, Spent(0, 0, None, 0)) == []
    assert thresholds.reached(wallet, Spent(950, 0, None, 1000)) == [50, 80]
    assert thresholds.reached(wallet, Spent(950, 0, None, 1000), before=900) == [50]
    assert thresholds.reached(Limit("z", "budget", 0), Spent(0, 0, None)) == []


def test_an_alert_says_what_is_left_and_when_there_is_more() -> None:
    """Once a period: its begin tells one from the next, a top-up one of a balance."""
    budget = Limit("m", "budget", 12_500_000, "month", "cost", currency="EUR", tenant="acme",
                   key="k")  # fmt: skip
    made = thresholds.alert(budget, Spent(10_000_001, 7, NOW + 1), 80, ("acme",), NOW)
    assert (made.budget, made.period, made.threshold) == ("m", "2026-11-01T00:00:00.000Z", 80)
    told = json.loads(made.body)
    assert (told["type"], told["timestamp"]) == ("budget.threshold", "2026-11-01T00:00:00.005Z")
    assert told["data"] == {
        "budget": "m", "threshold": 80, "meter": "cost", "tenant": "acme", "project": None,
        "key": "k", "model": None, "currency": "EUR", "limit": "12.50", "used": "10.000001",
        "remaining": "2.499999", "hard": True, "prepaid": False, "period": "month",
        "resets": "2026-11-01T00:00:00.006Z",
    }  # fmt: skip
    rows = json.loads(thresholds.alert(BUDGET, Spent(800, 0, None), 80, (), NOW).body)["data"]
    assert (rows["limit"], rows["remaining"], rows["resets"]) == (1000, 200, None)
    wallet = Limit("w", "budget", 0, meter="cost", currency="EUR", moves=True)
    assert thresholds.period_of(wallet, Spent(0, 0, None, 77), NOW) == "up to 77"
    assert thresholds.period_of(Limit("t", "budget", 1), Spent(0, 0, None), NOW) == "total"


def test_a_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's libraries, and what a receiver computes."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    found = signing.headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    fresh = signing.new_secret()
    key = base64.b64decode(fresh.removeprefix("whsec_"))
    assert len(key) == 32
    mine = base64.b64encode(hmac.new(key, b"id.7." + body, hashlib.sha256).digest()).decode()
    assert signing.headers(fresh, "id", 7, body)["webhook-signature"] == f"v1,{mine}"


def test_waits_grow_and_end() -> None:
    """Each within a fifth of what it should be, never twice the same; then it is given up."""
    chance = random.Random(1)
    for attempts, wait_s in enumerate(signing.WAITS_S, 1):
        waits = [signing.wait_ms(attempts, chance) for _ in range(50)]
        assert all(wait is not None and abs(wait - wait_s * 1000) <= 200 * wait_s for wait in waits)
        assert len(set(waits)) > 25
    assert list(signing.WAITS_S) == sorted(signing.WAITS_S)
    assert signing.wait_ms(len(signing.WAITS_S) + 1, chance) is None


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.location = ""

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def allowed(self, host: str = "127.0.0.1", family: int | None = 4) -> Allowed:
        return {("http", host, self.port): family}


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("location", self.server.location)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def refusal(url: object, allowed: Allowed) -> MeuseError:
    with pytest.raises(MeuseError) as caught:
        target_of(url, allowed)
    return caught.value


def test_a_post_arrives_where_the_operator_allows_it(receiver: Receiver) -> None:
    """With its headers and bytes as given; the answer's status comes back."""
    url = f"http://127.0.0.1:{receiver.port}/hook?a=b"
    assert post(url, b"{}", {"webhook-id": "m"}, receiver.allowed()) == 200
    ((headers, body),) = receiver.got
    assert (headers["webhook-id"], headers["content-type"], body) == (
        "m",
        "application/json",
        b"{}",
    )
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    receiver.status = 500
    assert post(url, b"{}", {}, receiver.allowed()) == 500


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "10.0.0.8", "169.254.169.254", "[fd00:ec2::254]", "[::ffff:127.0.0.1]",
     "0.0.0.0", "[64:ff9b::7f00:1]"],
)  # fmt: skip
def test_addresses_inside_are_refused_at_once(host: str) -> None:
    """When a webhook is made, before anything is sent."""
    error = refusal(f"https://{host}/hook", {})
    assert (error.code, error.field) == (Code.FORBIDDEN, "url")
    assert "webhook_hosts" in str(error.hint)


@pytest.mark.parametrize(
    "url",
    ["", 7, None, "ftp://example.org/", "https:///x", "https://u:p@example.org/", "example.org",
     "https://exa mple.org/", "https://example.org:99999/", "https://example.org:0/",
     "https://ex\u00e4mple.org/", "https://example.org/" + "x" * 3000, "file:///etc/passwd"],
)  # fmt: skip
def test_what_is_no_url_is_told(url: object) -> None:
    error = refusal(url, {})
    assert (error.code, error.field) == (Code.INVALID_FIELD, "url")


def test_plain_http_needs_the_operator(receiver: Receiver) -> None:
    assert refusal("http://example.org/hook", {}).code is Code.FORBIDDEN
    assert target_of("https://example.org/hook", {}).port == 443
    with pytest.raises(MeuseError) as caught:  # allowed, but not into the network
        post(f"http://127.0.0.1:{receiver.port}/", b"", {}, receiver.allowed(family=None))
    assert caught.value.code is Code.FORBIDDEN
    with pytest.raises(MeuseError):  # another family than the one that was allowed
        post(f"http://127.0.0.1:{receiver.port}/", b"", {}, receiver.allowed(family=6))
    assert receiver.got == []


def answers(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Let names resolve to these; the names that were asked for."""
    asked: list[str] = []

    def resolve(name: str, port: int, **_: Any) -> list[Any]:
        asked.append(name)
        kinds = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(kinds[":" in a], socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1",), ("93.184.216.34", "127.0.0.1"), ("93.184.216.34", "::1"),
                  ("10.0.0.1", "93.184.216.34")],
)  # fmt: skip
def test_every_address_of_a_name_is_checked_when_it_is_sent(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver, addresses: tuple[str, ...]
) -> None:
    """Whatever it was when the webhook was made, and however many good ones stand beside it."""
    url = f"https://hooks.example.org:{receiver.port}/"
    assert target_of(url, {}).host == "hooks.example.org"
    answers(monkeypatch, *addresses)
    with pytest.raises(MeuseError, match="inside the network"):
        post(url, b"", {}, {})
    assert receiver.got == []


def test_the_connection_goes_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    """The name is asked for once; what it says a moment later does not matter."""
    asked = answers(monkeypatch, "127.0.0.1")
    url = f"http://hooks.internal:{receiver.port}/"
    assert post(url, b"x", {}, receiver.allowed("hooks.internal")) == 200
    assert asked == ["hooks.internal"]
    assert receiver.got[0][0]["host"] == f"hooks.internal:{receiver.port}"


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    """Wherever they lead: the answer is a 302, which is no success."""
    receiver.status, receiver.location = 302, f"http://127.0.0.1:{receiver.port}/inside"
    assert post(f"http://127.0.0.1:{receiver.port}/", b"", {}, receiver.allowed()) == 302
    assert len(receiver.got) == 1


def test_one_that_sends_a_byte_now_and_then_is_cut_off() -> None:
    """Also after a head that says the connection ends with the answer: http.client has let go of
    the socket by then."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.0 200 OK\r\ncontent-length: 4096\r\n\r\n")
                for _ in range(100):
                    time.sleep(0.1)
                    connection.sendall(b".")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        began = time.monotonic()
        with contextlib.suppress(MeuseError):
            post(f"http://127.0.0.1:{port}/", b"x", {}, {("http", "127.0.0.1", port): 4}, 0.3)
        assert time.monotonic() - began < 5
        thread.join(5)


@pytest.mark.parametrize("word", [b"", b"HTTP/1.1 2", b"nonsense\r\n\r\n"])
def test_one_that_does_not_answer_is_unavailable(word: bytes) -> None:
    """Nobody there, one that ends in the middle, one that never ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(word)
                while word and connection.recv(4096):
                    pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(MeuseError) as caught:
            post(f"http://127.0.0.1:{port}/", b"x", {}, {("http", "127.0.0.1", port): 4}, 0.3)
        assert caught.value.code is Code.UNAVAILABLE
        thread.join(5)
