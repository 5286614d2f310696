"""core.ids"""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.core.ids import NAME_PATTERN, check_name, new_id, uuid7_bytes


@given(st.from_regex(NAME_PATTERN.replace("$", r"\Z"), fullmatch=True))
def test_name_that_matches_is_returned(name: str) -> None:
    """A name of the published pattern is accepted as it is."""
    assert name == check_name(name)


@given(st.text(max_size=80).filter(lambda s: re.fullmatch(NAME_PATTERN[1:-1], s) is None))
def test_any_other_text_is_refused(name: str) -> None:
    """Whatever does not match whole, trailing newline included, is refused by field."""
    with pytest.raises(MeuseError) as refusal:
        check_name(name, "model_name")
    assert (refusal.value.code, refusal.value.field) == (Code.INVALID_FIELD, "model_name")


@pytest.mark.parametrize("value", [None, 7, "", "A", "-a", "a/b", "a" * 64, "a\n", "../etc"])
def test_things_that_are_no_names(value: object) -> None:
    """Not text, empty, upper case, paths and overlong names are refused."""
    with pytest.raises(MeuseError):
        check_name(value)


def test_uuid7_is_version_7_and_ordered_by_time() -> None:
    """Ids carry version and variant bits and grow with the clock."""
    first = uuid7_bytes()
    time.sleep(0.002)
    second = uuid7_bytes()
    assert first < second
    assert first[6] >> 4 == 7
    assert first[8] >> 6 == 0b10


def test_ids_do_not_repeat() -> None:
    """A thousand ids made at once are a thousand ids."""
    assert len({new_id("job") for _ in range(1000)}) == 1000
