"""core.prices"""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from meuse.core.nouns import PriceTable
from meuse.core.prices import ATOMS, Prices

TABLE = PriceTable(
    "EUR",
    {
        "requests": {"*": "1000000000000000"},
        "rows": {"*": "7", "small": "5", "acme/small": "3"},
        "cache_hits": {"*": "9"},
        "prompt_tokens": {"*": str(10**30)},
        "cached_tokens": {"large": "2"},
    },
    [["batch", "rows", "small"]],
)


def test_the_most_specific_name_has_the_price() -> None:
    """owner/name, the bare name, then "*"; a meter that the plan does not know is free."""
    found = {
        model: Prices("basic:1", TABLE, model, "standard").unit["rows"]
        for model in ("acme/small", "blue/small", "acme/other", "small")
    }
    assert found == {"acme/small": 3, "blue/small": 5, "acme/other": 7, "small": 5}
    prices = Prices("basic:1", TABLE, "acme/x", "standard")
    assert prices.cost({"images": 10**9}) == 0
    assert prices.cost({"prompt_tokens": 2**53 - 1}) == (2**53 - 1) * 10**30


def test_what_has_no_price_is_no_zero() -> None:
    """A meter that is priced for others only, and a tier that meets no price, are told."""
    prices = Prices("basic:1", TABLE, "acme/x", "standard")
    error = prices.check({"rows": 1, "cached_tokens": 0})
    assert error is not None
    assert (error.code, error.http_status, error.field) == ("unrated", 402, "budget")
    assert "no price for cached_tokens of acme/x" in error.message
    assert prices.check({"rows": 1}) is None
    batch = Prices("basic:1", TABLE, "acme/small", "batch")
    assert batch.unit["rows"] == 3
    assert Prices("basic:1", TABLE, "blue/small", "batch").unpriced == {"rows", "cached_tokens"}


@given(
    st.dictionaries(
        st.sampled_from(["requests", "rows", "cache_hits", "prompt_tokens", "cached_tokens"]),
        st.integers(0, 10**20), max_size=5,
    ),
    st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6),
)  # fmt: skip
def test_what_is_reserved_is_enough(
    prices: dict[str, int], rows: int, hits: int, prompt: int, cached: int
) -> None:
    """Rows that turn out to be hits, and tokens that were cached, never cost more than what was
    reserved for them; and no more than a micro is reserved beyond the dearest way."""
    table = PriceTable("EUR", {meter: {"*": str(price)} for meter, price in prices.items()})
    found = Prices("p:1", table, "acme/m", "standard")
    micros = found.bound({"requests": 1, "rows": rows + hits, "prompt_tokens": prompt + cached})
    used = {
        "requests": 1, "rows": rows, "cache_hits": hits, "prompt_tokens": prompt,
        "cached_tokens": cached,
    }  # fmt: skip
    assert found.cost(used) <= micros * ATOMS
    dearest = (
        prices.get("requests", 0)
        + (rows + hits) * max(prices.get("rows", 0), prices.get("cache_hits", 0))
        + (prompt + cached) * max(prices.get("prompt_tokens", 0), prices.get("cached_tokens", 0))
    )
    assert Fraction(dearest, ATOMS) <= micros < Fraction(dearest, ATOMS) + 1


@given(st.integers(1, 10**15), st.integers(0, 10**12), st.integers(0, 10**9))
def test_what_fits_is_the_most_that_fits(each: int, micros: int, prompt: int) -> None:
    """So many units and the rest of the request are paid by it, one more is not."""
    table = PriceTable("EUR", {"completion_tokens": {"*": str(each)}, "prompt_tokens": {"*": "3"}})
    prices = Prices("p:1", table, "acme/m", "standard")
    needs = {"prompt_tokens": prompt, "completion_tokens": 10**30}
    most = prices.fitting(needs, "completion_tokens", micros)
    if most:
        assert prices.bound({**needs, "completion_tokens": most}) <= micros
    assert prices.bound({**needs, "completion_tokens": most + 1}) > micros
    assert prices.fitting(needs, "prompt_tokens", 0) == 0
