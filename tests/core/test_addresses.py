"""core.addresses"""

import pytest

from meuse.core.addresses import family_of, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::",
        "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2001:db8::1", "::127.0.0.1", "::10.0.0.1", "fec0::1",
    ],
)  # fmt: skip
def test_what_lies_inside_is_not_public(address: str) -> None:
    """Also where it hides in an address of the other family."""
    assert not is_public(address)


@pytest.mark.parametrize(
    ("address", "family"),
    [("93.184.216.34", 4), ("2606:4700::1111", 6), ("::ffff:93.184.216.34", 4),
     ("64:ff9b::5db8:d822", 4)],
)  # fmt: skip
def test_what_is_anybodys_is(address: str, family: int) -> None:
    assert is_public(address)
    assert family_of(address) == family


@pytest.mark.parametrize("text", ["", "example.org", "1.2.3", "0x7f.1", "2130706433"])
def test_what_is_no_address_is_none(text: str) -> None:
    """Other ways to write one are names, and are resolved before they are looked at."""
    with pytest.raises(ValueError, match="address"):
        is_public(text)
