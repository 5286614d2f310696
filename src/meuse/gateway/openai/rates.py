"""What a caller has left under its limits, in the headers that OpenAI's clients read. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meuse.core.errors import MeuseError
from meuse.core.micros import money_text
from meuse.core.nouns import COST
from meuse.meter.checks import TOKENS as BOTH
from meuse.meter.checks import Standing

TOKENS = ("prompt_tokens", "completion_tokens")


class LimitedError(MeuseError):
    """A refusal that says what is left."""

    def __init__(self, error: MeuseError, headers: list[tuple[bytes, bytes]]) -> None:
        super().__init__(
            error.code,
            error.message,
            field=error.field,
            hint=error.hint,
            retry_after_s=error.retry_after_s,
        )
        self.is_counted = error.is_counted
        self.headers = headers


def limited(error: MeuseError, left: Callable[[], list[tuple[bytes, bytes]]]) -> MeuseError:
    """The error, with what is left where it is about limits."""
    return LimitedError(error, left()) if error.http_status in (402, 429) else error


def headers(standings: Iterable[Standing]) -> list[tuple[bytes, bytes]]:
    """Of requests, of tokens and of money the tightest limit each; none where there is none."""
    tightest: dict[str, Standing] = {}
    for standing in standings:
        limit = standing.limit
        kind = "tokens" if limit.meter in (*TOKENS, BOTH) else limit.meter
        if kind not in ("requests", "tokens", COST):
            continue
        if kind not in tightest or standing.left < tightest[kind].left:
            tightest[kind] = standing
    found = []
    for kind, standing in tightest.items():
        amounts = [str(standing.most), str(standing.left)]
        if kind == COST:
            currency = standing.limit.currency
            amounts = [money_text(n, currency) for n in (standing.most, standing.left)]
        values = (*amounts, written(standing.reset_us))
        for name, value in zip(("limit", "remaining", "reset"), values, strict=True):
            found.append((f"x-ratelimit-{name}-{kind}".encode(), value.encode()))
    return found


def written(us: int) -> str:
    """A duration as OpenAI has it: 20ms, 1.5s, 6m0s, 24h0m0s."""
    if us < 1_000_000:
        return f"{-(-us // 1000)}ms"
    seconds = us / 1e6
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
