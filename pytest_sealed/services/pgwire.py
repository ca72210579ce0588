"""As much of PostgreSQL's protocol as it takes to see whether a server answers, and to send it a command.

See "Frontend/Backend Protocol" in PostgreSQL's documentation: message formats and error codes are named as there.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    import socket

__all__ = ["INVALID_CATALOG_NAME", "Refused", "execute", "start_up"]

INVALID_CATALOG_NAME = "3D000"   # there is no such database
_VERSION = 3 << 16
_LONGEST = 1 << 20   # bytes of a message; what answers with more is no PostgreSQL


@final
class Refused(OSError):
    """The server answered with an error.

    Attributes:
        code: five characters, see "PostgreSQL Error Codes".
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


def start_up(connection: socket.socket, user: str, database: str) -> None:
    """Ask for a session, and return once the server is ready for a query, or asks for a password.

    Raises:
        Refused: it answered with an error, such as "the database system is starting up".
        OSError: the connection's own, or what answers is no PostgreSQL.
    """
    fields = b"".join(text.encode() + b"\0" for text in ("user", user, "database", database)) + b"\0"
    connection.sendall(struct.pack("!ii", 8 + len(fields), _VERSION) + fields)
    while True:
        kind, payload = _message(connection)
        if kind == b"Z" or (kind == b"R" and payload[:4] != b"\0\0\0\0"):
            return


def execute(connection: socket.socket, statement: str) -> None:
    """Run one statement in a session that is ready, and wait for its end.

    Raises:
        Refused: the server answered with an error.
    """
    text = statement.encode() + b"\0"
    connection.sendall(b"Q" + struct.pack("!i", 4 + len(text)) + text)
    while _message(connection)[0] != b"Z":
        pass


def _message(connection: socket.socket) -> tuple[bytes, bytes]:
    kind, length = struct.unpack("!ci", _exactly(connection, 5))
    if not 4 <= length <= _LONGEST:
        raise OSError("what answers there does not speak PostgreSQL's protocol")
    payload = _exactly(connection, length - 4)
    if kind == b"E":
        fields = {part[:1]: part[1:].decode(errors="replace") for part in payload.split(b"\0") if part}
        raise Refused(fields.get(b"C", ""), fields.get(b"M", "an error"))
    return kind, payload


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise ConnectionResetError("the server closed the connection")
        data += chunk
    return data
