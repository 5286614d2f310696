"""access.keys"""

import string

from hypothesis import given
from hypothesis import strategies as st

from meuse.access import keys


def test_a_key_is_found_by_its_id_and_matches_its_digest() -> None:
    """What was minted is recognised, and only with the same pepper."""
    key_id, key = keys.mint("test")
    stored = keys.digest(b"pepper", key)
    assert key_id == keys.key_id(key)
    assert keys.matches(b"pepper", key, stored)
    assert not keys.matches(b"other", key, stored)


@given(st.integers(0, 61), st.sampled_from(string.ascii_letters + string.digits))
def test_a_changed_letter_breaks_the_checksum(at: int, letter: str) -> None:
    """Any single wrong letter is refused without a look-up."""
    _, key = keys.mint("test")
    at %= len(key)
    wrong = key[:at] + letter + key[at + 1 :]
    assert wrong == key or keys.key_id(wrong) is None


@given(st.text(max_size=100))
def test_no_text_is_taken_for_a_key(text: str) -> None:
    """Arbitrary text, SQL and control characters included, has no key id."""
    assert keys.key_id(text) is None
    assert keys.key_id(f"meuse_live_{text}") is None


def test_a_pass_speaks_for_its_key_until_a_time_and_cannot_be_made_up() -> None:
    """What was minted is read; another pepper, key or time is not, nor is a key itself."""
    key_id, key = keys.mint()
    made = keys.mint_pass(b"pepper", key_id, 1_800_000_000_000)
    assert keys.read_pass(b"pepper", made) == (key_id, 1_800_000_000_000)
    other, _ = keys.mint()
    for wrong in (
        made.replace("1800000000000", "1900000000000"), made.replace(key_id, other), made[:-1],
        f"{made[:-1]}{'0' if made[-1] != '0' else '1'}", key, "", f"{made}é",
    ):  # fmt: skip
        assert keys.read_pass(b"pepper", wrong) is None
    assert keys.read_pass(b"salt", made) is None
    assert keys.key_id(made) is None
