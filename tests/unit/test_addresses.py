from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sealed.runtime.network.addresses import AddressError, Addresses, mac_of


def test_containers_count_upwards_from_two() -> None:
    addresses = Addresses("10.89.0.0/24")
    assert addresses.gateway == "10.89.0.1"
    assert [addresses.take() for _ in range(3)] == ["10.89.0.2", "10.89.0.3", "10.89.0.4"]


def test_the_lowest_address_that_was_given_back_is_taken_next() -> None:
    addresses = Addresses("10.89.0.0/24")
    for _ in range(4):
        addresses.take()
    addresses.give_back("10.89.0.4")
    addresses.give_back("10.89.0.3")
    assert [addresses.take() for _ in range(3)] == ["10.89.0.3", "10.89.0.4", "10.89.0.6"]


def test_listeners_count_downwards_and_leave_the_broadcast_address_alone() -> None:
    addresses = Addresses("10.89.0.0/24")
    assert [addresses.take_highest() for _ in range(2)] == ["10.89.0.254", "10.89.0.253"]
    assert addresses.take() == "10.89.0.2"


def test_a_slot_is_the_number_of_its_address() -> None:
    addresses = Addresses("10.89.4.0/22")
    assert addresses.take(300) == "10.89.5.44"
    assert addresses.number("10.89.5.44") == 300


@pytest.mark.parametrize("slot", [-1, 0, 1, 255, 256, 1 << 40])
def test_a_slot_that_is_no_container_address_is_refused(slot: int) -> None:
    with pytest.raises(AddressError, match=r"must be 2 to 254"):
        Addresses("10.89.0.0/24").take(slot)


def test_a_slot_that_is_taken_is_refused() -> None:
    addresses = Addresses("10.89.0.0/24")
    addresses.take()
    with pytest.raises(AddressError, match=r"10\.89\.0\.2 is taken"):
        addresses.take(2)


def test_a_full_network_says_how_many_addresses_it_had() -> None:
    addresses = Addresses("10.89.0.0/29")
    for _ in range(5):
        addresses.take()
    with pytest.raises(AddressError, match="all 5 addresses are taken"):
        addresses.take()
    with pytest.raises(AddressError, match="all 5 addresses are taken"):
        addresses.take_highest()


@pytest.mark.parametrize(("subnet", "why"), [
    ("10.89.0.1/24", "no IPv4 subnet"), ("fd00::/64", "no IPv4 subnet"), ("backend", "no IPv4 subnet"), ("", "no IPv4 subnet"),
    ("10.0.0.0/7", "between /8 and /29"), ("10.89.0.0/30", "between /8 and /29"), ("0.0.0.0/1", "between /8 and /29"),
    ("127.0.0.0/8", "reserved"), ("224.0.0.0/8", "reserved"), ("169.254.0.0/16", "reserved"), ("240.0.0.0/8", "reserved"),
])
def test_a_subnet_that_cannot_be_used_is_refused_with_the_reason(subnet: str, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        Addresses(subnet)


def test_the_mac_follows_from_the_address() -> None:
    assert mac_of("10.89.0.2") == "02:42:0a:59:00:02"


@given(st.integers(8, 29), st.lists(st.booleans(), max_size=60))
def test_no_address_is_ever_given_twice(prefix: int, takes: list[bool]) -> None:
    subnet = IPv4Network((0x0A000000, prefix))
    addresses = Addresses(str(subnet))
    held: list[str] = []
    for take in takes:
        if take or not held:
            try:
                address = addresses.take() if len(held) % 3 else addresses.take_highest()
            except AddressError:
                assert len(held) == subnet.num_addresses - 3
                continue
            assert address not in held
            assert address != addresses.gateway
            assert IPv4Address(address) in list(subnet.hosts()) if prefix > 20 else IPv4Address(address) in subnet
            held.append(address)
        else:
            addresses.give_back(held.pop(0))
