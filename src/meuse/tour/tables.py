"""What the tour shows at its end."""

from __future__ import annotations

from rich.table import Table

from meuse.tour import digits, language


def tables(figures: digits.Figures, talk: language.Figures) -> list[Table]:
    return [_main_job(figures), *([_taught(talk)] if talk.model else [])]


def _main_job(figures: digits.Figures) -> Table:
    table = Table(title=f"The main job, {figures.seconds:.0f} s")
    for heading in ("", "before", "after compression"):
        table.add_column(heading, justify="left" if not heading else "right")
    before, after = figures.before, figures.after
    table.add_row(f"test {figures.metric}", f"{before['metric']:.4f}", f"{after['metric']:.4f}")
    table.add_row("size", f"{before['bytes']:,} bytes", f"{after['bytes']:,} bytes")
    table.add_row("latency p50, engine", f"{before['p50_ms']:.4f} ms", f"{after['p50_ms']:.4f} ms")
    table.add_section()
    table.add_row("requests", "", f"{figures.requests:,}")
    table.add_row("rows metered", "", f"{figures.rows_metered:,}")
    total, currency = figures.invoice["total"], figures.invoice["currency"]
    table.add_row("invoice total", "", f"{total} {currency} ({figures.invoice['status']})")
    return table


def _taught(talk: language.Figures) -> Table:
    table = Table(title=f"A language model, taught in {talk.training_seconds:.0f} s")
    for heading in ("", "before", "after fine-tuning"):
        table.add_column(heading, justify="left" if not heading else "right")
    before, after = talk.validation_loss
    table.add_row("validation loss", f"{before:.3f}", f"{after:.3f}")
    for question, (plain, taught) in talk.answers.items():
        table.add_row(question, plain, taught)
    table.add_row("tokens/s, one stream", "", f"{talk.tokens_per_s:.0f}")
    table.add_row("tokens metered", "", f"{talk.tokens_metered:,}")
    return table
