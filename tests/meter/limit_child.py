"""A process that uses a limits file: `limit_child.py <json>`; see `test_limits`.

{"path", "limits", "do", "journal"}: `spend` takes and settles one unit after another, each with
a byte in the journal right after, until it is refused for good; `reserve` settles one request,
reserves two more and waits; `lock` takes the lock and waits; `talk` see there. A
line "ready" is printed first; `spend` then waits for a line, so that all begin together.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Limit, PriceTable
from meuse.core.prices import Prices
from meuse.meter.checks import Plan
from meuse.meter.limits import Limits

ONE = {"requests": 1, "rows": 1}


def talk(limits: Limits, plan: Plan, path: str) -> None:
    """Reserve ten tokens and use one, with a byte in the journal, until nothing goes for 0.3 s."""
    journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    print("ready", flush=True)
    sys.stdin.readline()
    last = time.monotonic()
    while time.monotonic() < last + 0.3:
        try:
            grant = limits.admit(plan, {"requests": 1, "completion_tokens": 10})
        except MeuseError:
            time.sleep(0.001)
            continue
        limits.settle(grant, {"requests": 1, "completion_tokens": 1})
        os.write(journal, b".")
        last = time.monotonic()


def main() -> None:
    given = json.loads(sys.argv[1])
    limits = Limits(Path(given["path"]))
    limits.load([Limit(**limit) for limit in given["limits"]], 1)
    prices = None
    if "prices" in given:
        prices = Prices("basic:1", PriceTable("EUR", given["prices"]), "acme/m", "standard")
    plan = limits.plan("acme", "default", "key", "acme/m", lambda: prices)
    assert plan is not None
    if given["do"] == "talk":
        talk(limits, plan, given["journal"])
        return
    if given["do"] == "spend":
        journal = os.open(given["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        print("ready", flush=True)
        sys.stdin.readline()
        while True:
            try:
                grant = limits.admit(plan, ONE)
            except MeuseError as error:
                if error.code is Code.BUDGET_EXCEEDED:
                    break
                continue  # busy, or what is left is reserved by another
            limits.settle(grant, ONE)
            os.write(journal, b".")
        return
    if given["do"] == "lock":
        limits._cells.lock()
    else:
        limits.settle(limits.admit(plan, ONE), ONE)
        limits.admit(plan, ONE)
        limits.admit(plan, ONE)
    print("ready", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
