from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sealed.runtime.network import dns

NAMES = {"db": ["10.89.0.2"], "web.shop": ["10.89.0.3"], "all": ["10.89.0.2", "10.89.0.3"]}
A, NS, PTR, AAAA, ANY = 1, 2, 12, 28, 255


def encode(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def query(name: str, kind: int = A, *, group: int = 1, flags: int = 0x0100, tail: bytes = b"") -> bytes:
    return struct.pack(">6H", 0x1234, flags, 1, 0, 0, 1 if tail else 0) + encode(name) + struct.pack(">2H", kind, group) + tail


def ask(packet: bytes) -> bytes | None:
    return dns.answer(packet, NAMES.get, {"10.89.0.2": "db"}.get)


def asked(packet: bytes) -> bytes:
    reply = ask(packet)
    assert reply is not None
    return reply


def code(reply: bytes) -> int:
    return reply[3] & 15


def records(packet: bytes) -> list[tuple[int, bytes]]:
    """Read the answers of a reply to a query with one question."""
    reply = asked(packet)
    assert code(reply) == 0
    offset, found = len(packet), []
    for _ in range(struct.unpack_from(">H", reply, 6)[0]):
        pointer, kind, group, ttl, length = struct.unpack_from(">HHHIH", reply, offset)
        assert (pointer, group, ttl) == (0xC00C, 1, 0)
        found.append((kind, reply[offset + 12:offset + 12 + length]))
        offset += 12 + length
    assert offset == len(reply)
    return found


def test_a_name_of_the_network_is_answered_with_its_address() -> None:
    assert records(query("db")) == [(A, bytes([10, 89, 0, 2]))]


def test_the_answer_repeats_id_question_and_the_wish_for_recursion() -> None:
    packet = query("db")
    reply = asked(packet)
    assert reply[:2] == packet[:2]
    assert reply[12:len(packet)] == packet[12:]
    assert struct.unpack_from(">H", reply, 2)[0] == 0x8000 | 0x0400 | 0x0100 | 0x0080


@pytest.mark.parametrize("name", ["DB", "dB.", "Web.SHOP"])
def test_names_are_found_whatever_their_case(name: str) -> None:
    assert len(records(query(name))) == 1


def test_a_name_that_several_share_has_all_their_addresses() -> None:
    assert [data[-1] for _, data in records(query("all"))] == [2, 3]


@pytest.mark.parametrize("kind", [AAAA, NS, 16, 65])
def test_a_known_name_has_no_other_records_and_no_error(kind: int) -> None:
    assert records(query("db", kind)) == []


@pytest.mark.parametrize("kind", [A, AAAA, NS])
def test_an_unknown_name_does_not_exist(kind: int) -> None:
    assert code(asked(query("redis", kind))) == 3


def test_the_root_does_not_exist() -> None:
    assert code(asked(query(""))) == 3


def test_an_address_is_answered_with_its_name() -> None:
    assert records(query("2.0.89.10.in-addr.arpa", PTR)) == [(PTR, encode("db"))]


def test_an_unknown_address_has_no_name() -> None:
    assert code(asked(query("9.0.89.10.in-addr.arpa", PTR))) == 3


def test_a_dot_within_a_label_does_not_make_another_name() -> None:
    packet = struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\x08web.shop\0" + struct.pack(">2H", A, 1)
    assert code(asked(packet)) == 3


def test_an_edns_record_after_the_question_is_passed_over() -> None:
    opt = b"\0" + struct.pack(">HHIH", 41, 1232, 0, 0)
    packet = query("db", tail=opt)
    reply = asked(packet)
    assert code(reply) == 0
    assert struct.unpack_from(">4H", reply, 4) == (1, 1, 0, 0)


def test_an_answer_is_not_answered() -> None:
    assert ask(query("db", flags=0x8180)) is None


@pytest.mark.parametrize("size", range(12))
def test_less_than_a_header_is_not_answered(size: int) -> None:
    assert ask(query("db")[:size]) is None


def test_another_operation_is_not_implemented() -> None:
    assert code(asked(query("db", flags=5 << 11))) == 4


def test_another_class_is_refused() -> None:
    assert code(asked(query("db", group=3))) == 5


@pytest.mark.parametrize("questions", [0, 2, 0xFFFF])
def test_any_count_of_questions_but_one_is_malformed(questions: int) -> None:
    packet = bytearray(query("db"))
    struct.pack_into(">H", packet, 4, questions)
    assert code(asked(bytes(packet))) == 1


@pytest.mark.parametrize("name", [
    b"\xc0\x0c", b"\x01a\xc0\x0c", b"\x40" + b"a" * 64 + b"\0", b"\x05ab", b"", b"\x01a" * 130 + b"\0", b"\x3f" + b"a" * 62,
])
def test_a_name_that_breaks_the_rules_is_malformed(name: bytes) -> None:
    packet = struct.pack(">6H", 1, 0, 1, 0, 0, 0) + name
    assert code(asked(packet + struct.pack(">2H", A, 1))) == 1


def test_a_question_without_type_is_malformed() -> None:
    assert code(asked(query("db")[:-3])) == 1


def test_a_name_too_odd_for_dns_is_no_error() -> None:
    reply = dns.answer(query("2.0.89.10.in-addr.arpa", PTR), NAMES.get, lambda _: "a" * 80)
    assert reply is not None
    assert code(reply) == 0


def test_no_answer_is_larger_than_a_datagram() -> None:
    reply = dns.answer(query("many"), lambda _: ["10.0.0.1"] * 1000, lambda _: None)
    assert reply is not None
    assert len(reply) <= 512


@given(st.binary(max_size=600))
def test_any_bytes_are_survived(data: bytes) -> None:
    reply = ask(data)
    assert reply is None or (len(reply) <= 512 and reply[2] & 0x80)


@given(st.binary(max_size=300), st.integers(0, 3))
def test_any_bytes_after_a_good_header_are_survived(data: bytes, questions: int) -> None:
    reply = asked(struct.pack(">6H", 7, 0x0100, questions, 0, 0, 0) + data)
    assert reply[:2] == b"\0\x07"
    assert len(reply) <= 600


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20), min_size=1, max_size=5),
       st.integers(0, 0xFFFF))
def test_every_good_question_has_a_good_answer(labels: list[str], kind: int) -> None:
    reply = asked(query(".".join(labels), kind))
    assert code(reply) in (0, 3)


@given(st.data())
def test_a_damaged_question_is_survived(data: st.DataObject) -> None:
    packet = bytearray(query("web.shop", PTR))
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    ask(bytes(packet[:data.draw(st.integers(0, len(packet)))]))
