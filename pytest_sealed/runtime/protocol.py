"""Messages between the processes of a session: JSON over SOCK_SEQPACKET, with file descriptors.

A message is one packet; one that is too large for a packet travels in a memfd. There is no state
between messages: a client sends a request together with one end of a fresh socket pair, and gets its
answers there. So requests from several threads can't mix, a waiting caller polls a socket of its own,
and closing that socket gives the request up.
"""

from __future__ import annotations

import array
import json
import os
import socket
import stat

TYPE_CHECKING = False   # not imported: the supervisor starts without `typing`
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Channel", "ProtocolError", "pair"]

_PACKET = 128 * 1024      # bytes; below the kernel's default socket buffer of 208 KiB
_LARGEST = 16 << 20       # bytes, of a message in a memfd
_MOST_FDS = 250           # the kernel's SCM_MAX_FD is 253


class ProtocolError(Exception):
    """The peer sent what no peer of ours sends."""


class Channel:
    """One end of a SOCK_SEQPACKET connection. Closing is the owner's duty; a context manager helps."""

    __slots__ = ("socket",)

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: dict[str, Any], fds: tuple[int, ...] | list[int] = ()) -> None:
        """Send one message; the receiver gets duplicates of `fds`, which stay open here.

        Raises:
            OSError: the peer is gone (EPIPE), or would block on a non-blocking socket.
        """
        data = json.dumps(message, separators=(",", ":")).encode()
        passed = list(fds)
        if len(data) <= _PACKET:
            self._send(b"J" + data, passed)
            return
        memory = os.memfd_create("sealed-message", os.MFD_CLOEXEC)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(memory, view):]
            self._send(b"M", [memory, *passed])
        finally:
            os.close(memory)

    def _send(self, packet: bytes, fds: list[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)

    def receive(self, *, peek: bool = False) -> tuple[dict[str, Any], list[int]] | None:
        """Return the next message and its fds (the caller's to close), or None at the end of the connection.

        Args:
            peek: leave the message where it is, so that everyone who waits for it sees it.

        Raises:
            ProtocolError: the packet is no message; its fds are closed.
            OSError: would block on a non-blocking socket, or the connection broke.
        """
        space = socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize)
        packet, ancillary, flags, _ = self.socket.recvmsg(
            _PACKET + 1, space, socket.MSG_CMSG_CLOEXEC | (socket.MSG_PEEK if peek else 0))
        fds: list[int] = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                fds.extend(numbers)
        if not packet:
            _close(fds)
            return None
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ProtocolError("a packet was cut short")
            return self._decode(packet, fds), fds
        except BaseException:
            _close(fds)
            raise

    def _decode(self, packet: bytes, fds: list[int]) -> dict[str, Any]:
        if packet == b"M" and fds:
            memory = fds.pop(0)
            try:
                found = os.fstat(memory)
                if not stat.S_ISREG(found.st_mode):
                    raise ProtocolError("a large message that is in no memory file")
                if found.st_size > _LARGEST:
                    raise ProtocolError(f"a message of {found.st_size} bytes; at most {_LARGEST} are taken")
                data = os.pread(memory, found.st_size, 0)
            finally:
                os.close(memory)
        elif packet[:1] == b"J":
            data = packet[1:]
        else:
            raise ProtocolError("a packet of no known kind")
        try:
            message = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"a packet that is no JSON: {error}") from error
        if not isinstance(message, dict):
            raise ProtocolError("a message that is no object")
        return message

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pair() -> tuple[Channel, Channel]:
    """Return two connected channels, close-on-exec."""
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(first), Channel(second)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
