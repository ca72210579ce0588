"""The network service's entry: `python -I -S service.py FD SITE_PACKAGES`. See `directory` for its operations.

One thread, one epoll: the supervisor's channel first, then DNS, then, when nobody wants anything, work ahead.
Ends when the channel does.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Started with -I -S: neither the package's parent nor the folder of pyroute2 is on the path yet.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))
    sys.path.append(sys.argv[2])

import gc
import resource
import select
import signal
import socket
import time
from typing import Any

from pytest_sealed.linux.process import set_name
from pytest_sealed.runtime.network.addresses import AddressError
from pytest_sealed.runtime.network.directory import BadRequest, Directory, Reply
from pytest_sealed.runtime.network.resolver import Resolver
from pytest_sealed.runtime.protocol import Channel, ProtocolError

__all__ = ["main"]

_OPERATIONS = frozenset({"attach", "create", "detach", "listen", "names", "remove", "unlisten"})
_QUIET = 0.004      # seconds without a request before work ahead begins: requests come in groups
_RETRY = 1.0        # seconds, after work ahead has failed


class _Service:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._epoll = select.epoll()
        self._epoll.register(channel.fileno(), select.EPOLLIN)
        self._resolver = Resolver(self._epoll)
        self._directory = Directory(self._resolver)
        self._work_at = 0.0   # time.monotonic() before which no work ahead is done

    def run(self) -> None:
        """Serve until the channel ends."""
        while True:
            events = self._epoll.poll(self._timeout())
            ready = {fd for fd, _ in events}
            if self._channel.fileno() in ready:
                if not self._serve():
                    return
                self._work_at = time.monotonic() + _QUIET
            for fd in ready - {self._channel.fileno()}:
                self._resolver.handle(fd)
            self._resolver.expire()
            if not events and self._directory.has_work() and time.monotonic() >= self._work_at:
                self._work()

    def _timeout(self) -> float:
        times = [self._work_at] if self._directory.has_work() else []
        deadline = self._resolver.next_deadline()
        if deadline is not None:
            times.append(deadline)
        return max(0.0, min(times) - time.monotonic()) if times else -1

    def _serve(self) -> bool:
        """Take one request and answer it; False at the end of the channel."""
        try:
            received = self._channel.receive()
        except ProtocolError:
            return True   # nobody to answer: the request's id is unknown
        except ConnectionError:
            return False
        if received is None:
            return False
        request, fds = received
        try:
            reply = self._do(request, fds)
        finally:
            for fd in fds:
                os.close(fd)
        message = {"id": request.get("id")}
        message.update({"error": reply} if isinstance(reply, str) else {"ok": reply.ok})
        given = () if isinstance(reply, str) else reply.fds
        try:
            self._channel.send(message, given)
        except OSError:
            return False   # the supervisor is gone
        finally:
            if not isinstance(reply, str) and reply.release:
                for fd in given:
                    os.close(fd)
        return True

    def _do(self, request: dict[str, Any], fds: list[int]) -> Reply | str:
        operation = request.get("op")
        if operation not in _OPERATIONS:
            return f"the network service has no operation {operation!r}"
        try:
            result: Reply = getattr(self._directory, operation)(request, fds)
        except (BadRequest, AddressError) as error:
            return str(error)
        except OSError as error:
            return f"{operation}: {error}"
        except Exception as error:   # one bad request must not end the networks of all tests
            return f"{operation}: {type(error).__name__}: {error} (a bug of the network service)"
        return result

    def _work(self) -> None:
        try:
            self._directory.work()
        except OSError:   # out of memory or descriptors, say: a request that needs it will tell
            self._work_at = time.monotonic() + _RETRY


def main(fd: int) -> None:
    """Serve the channel `fd` until its other end closes."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)   # whoever ends the session closes the channel
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))   # a network holds four descriptors
    set_name("sealed-network")
    gc.disable()   # the import of pyroute2 would be collected several times over; `directory` enables it again
    service = _Service(Channel(socket.socket(fileno=fd)))
    service.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
