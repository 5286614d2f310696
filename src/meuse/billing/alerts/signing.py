"""Signatures and retries of webhooks, as the Standard Webhooks specification has them
(https://www.standardwebhooks.com, version 1). Pure.

    webhook-id          the same for each attempt: receivers drop what they have seen
    webhook-timestamp   Unix seconds of the attempt
    webhook-signature   v1,<base64 of HMAC-SHA256 over "id.timestamp.body" with the secret's bytes>
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import random

PREFIX = "whsec_"
_SECRET_BYTES = 32
WAITS_S = (5, 60, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Before the second attempt and each that follows; then it is given up, after three days."""
JITTER = 0.2
"""Of a wait, either way: those that failed together do not come back together."""


def new_secret() -> str:
    return PREFIX + base64.b64encode(os.urandom(_SECRET_BYTES)).decode()


def purpose(webhook: str) -> str:
    """What the secret of a webhook is sealed for."""
    return f"webhook/{webhook}"


def headers(secret: str, id: str, seconds: int, body: bytes) -> dict[str, str]:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{id}.{seconds}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return {
        "webhook-id": id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def wait_ms(attempts: int, chance: random.Random) -> int | None:
    """How long to wait after so many attempts have failed; None: it is given up."""
    if attempts > len(WAITS_S):
        return None
    share = 1 + JITTER * (2 * chance.random() - 1)
    return round(WAITS_S[attempts - 1] * 1000 * share)
