"""The command line: one short function per verb. Prints what the API answers.

`up`, `drain`, `restart` and `doctor` work on this machine; every other verb is a client of a
platform, found by MEUSE_URL and MEUSE_KEY or, without them, by the home of a platform that
runs here.
"""

from __future__ import annotations

import sys

import typer

from meuse.cli import (
    compress,
    finetune,
    invoices,
    learning,
    limits,
    llm,
    machine,
    money,
    plans,
    serving,
    usage,
    wallets,
)
from meuse.core.errors import MeuseError

app = typer.Typer(
    name="meuse",
    help="Models as a service on your own machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
VERBS = (
    machine.up, machine.drain, machine.restart, machine.demo, machine.doctor,
    learning.data, learning.train, learning.search, compress.compress, compress.methods,
    llm.pull, finetune.finetune, learning.evaluate, learning.promote, learning.jobs,
    learning.models, serving.deploy, serving.rollout, serving.predict, llm.chat, llm.tune_engine,
    money.forecast, money.reconcile, money.keys, limits.limits,
)  # fmt: skip
"""In the order in which the help lists them."""

for verb in VERBS:
    app.command()(verb)
app.add_typer(machine.toolchains, name="toolchains")
app.add_typer(usage.app, name="usage")
app.add_typer(plans.app, name="plans")
app.add_typer(limits.webhooks, name="webhooks")
app.add_typer(invoices.app, name="invoice")
app.add_typer(wallets.app, name="wallet")


def main() -> None:
    """Entry point: errors are printed as one or two lines, exit status 1."""
    try:
        app()
    except MeuseError as error:
        sys.stderr.write(f"meuse: {error.message}\n")
        if error.field:
            sys.stderr.write(f"  field: {error.field}\n")
        if error.hint:
            sys.stderr.write(f"  {error.hint}\n")
        sys.exit(1)
