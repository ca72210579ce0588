"""A small DNS answer: the names of one network, from bytes to bytes. See RFC 1035.

Whoever asks is hostile until proven otherwise: every length is checked, nothing is followed (compression in
a question is refused), and whatever can't be understood is answered by an error code or not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from socket import inet_aton

__all__ = ["Lookup", "Reverse", "answer"]

Lookup = Callable[[str], "Sequence[str] | None"]   # a lower-case name → its addresses; None: there is no such name
Reverse = Callable[[str], "str | None"]            # an address → its name

_HEADER = struct.Struct(">6H")     # id, flags, and the counts of questions, answers, authorities, additionals
_QR, _AA, _RD, _RA = 0x8000, 0x0400, 0x0100, 0x0080
_FORMERR, _NXDOMAIN, _NOTIMP, _REFUSED = 1, 3, 4, 5
_A, _PTR, _ANY = 1, 12, 255
_IN, _ANY_CLASS = 1, 255
_POINTER = b"\xc0\x0c"             # to the question's name, which is always at byte 12
_TTL = 0                           # seconds: a test's names change at any time
_MOST_ANSWERS = 16                 # so that an answer stays below 512 bytes
_ARPA = ".in-addr.arpa"


class _Malformed(Exception):
    """The question breaks the rules."""


def answer(query: bytes, lookup: Lookup, reverse: Reverse) -> bytes | None:
    """Return the answer to one query, or None where silence is the answer (no query, or too short to say whose)."""
    if len(query) < _HEADER.size:
        return None
    number, flags, questions, _, _, _ = _HEADER.unpack_from(query)
    if flags & _QR:
        return None   # an answer: two servers that answered each other would never stop
    if flags & 0x7800:
        return _reply(number, flags, _NOTIMP)
    if questions != 1:
        return _reply(number, flags, _FORMERR)
    try:
        name, end = _name(query, _HEADER.size)
        kind, group = struct.unpack_from(">2H", query, end)
    except (_Malformed, struct.error):
        return _reply(number, flags, _FORMERR)
    question = query[_HEADER.size:end + 4]
    if group not in (_IN, _ANY_CLASS):
        return _reply(number, flags, _REFUSED, question)
    if name.endswith(_ARPA):
        return _pointer(number, flags, question, reverse(".".join(reversed(name[:-len(_ARPA)].split(".")))), kind)
    addresses = lookup(name)
    if addresses is None:
        return _reply(number, flags, _NXDOMAIN, question)
    records = [inet_aton(address) for address in addresses] if kind in (_A, _ANY) else []
    return _reply(number, flags, 0, question, _A, records[:_MOST_ANSWERS])


def _pointer(number: int, flags: int, question: bytes, target: str | None, kind: int) -> bytes:
    if target is None:
        return _reply(number, flags, _NXDOMAIN, question)
    try:
        records = [_encoded(target)] if kind in (_PTR, _ANY) else []
    except _Malformed:
        records = []   # a name that only /etc/hosts can hold
    return _reply(number, flags, 0, question, _PTR, records)


def _reply(number: int, flags: int, code: int, question: bytes = b"", kind: int = 0, records: Sequence[bytes] = ()) -> bytes:
    header = _HEADER.pack(number, _QR | _AA | _RA | flags & _RD | flags & 0x7800 | code, 1 if question else 0, len(records), 0, 0)
    return header + question + b"".join(
        _POINTER + struct.pack(">2HIH", kind, _IN, _TTL, len(record)) + record for record in records
    )


def _name(data: bytes, offset: int) -> tuple[str, int]:
    """Return the name at `offset`, in lower case and without the last dot, and where it ends."""
    labels: list[bytes] = []
    total = 1
    while True:
        if offset >= len(data):
            raise _Malformed("a name that never ends")
        length = data[offset]
        offset += 1
        if length == 0:
            break
        total += length + 1
        if length > 63 or total > 255 or offset + length > len(data):
            raise _Malformed("a label that is too long, or a pointer")
        labels.append(data[offset:offset + length])
        offset += length
    # A dot inside a label is legal in DNS, and would make "a.b" and "a\.b" one name: no name of ours has one.
    if any(b"." in label for label in labels):
        return "\0", offset
    return b".".join(labels).lower().decode("utf-8", "replace"), offset


def _encoded(name: str) -> bytes:
    labels = [label.encode() for label in name.rstrip(".").split(".")]
    if any(not 1 <= len(label) <= 63 for label in labels) or sum(len(label) + 1 for label in labels) > 254:
        raise _Malformed(f"{name!r} is no name for DNS")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
