"""Entry script of the forwarder: `python -I -S service.py FD RUNDIR [PIPES]`, started by the supervisor.

FD is a channel to the supervisor; its end ends this process. PIPES is the most pipes held at a time.
Requests (those with an "id" are answered `{"id": n, "ok": {…}}` or `{"id": n, "error": "text"}`):

    listen  container, port, address?   fds: listening socket, hub?    up  container, address   fds: hub
    spool   container, path, limit?     fds: stdout, stderr?           down, drop, flush, traffic   container
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import sys

if __name__ == "__main__":     # -I leaves the script's own folder, and -S the site packages, off the path
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))

from pytest_sealed.runtime.forward.containers import Acceptor, Container, Listener
from pytest_sealed.runtime.forward.hubs import Hubs
from pytest_sealed.runtime.forward.loop import Loop, report
from pytest_sealed.runtime.forward.pipes import Pool
from pytest_sealed.runtime.forward.spool import SEGMENT_SIZE, LogPipe, Spool
from pytest_sealed.runtime.protocol import Channel, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Message = dict[str, Any]

__all__ = ["Service", "main"]

_PIPES = 16            # most pipes lent: 1/16 of what an ordinary account has for all its processes
_MESSAGES = 64         # handled in one round


class Service:
    """Carries out the supervisor's requests."""

    __slots__ = ("_acceptor", "_channel", "_containers", "_hubs", "_loop", "_operations", "_outbox", "_rundir")

    def __init__(self, channel: Channel, rundir: str, pipes: int) -> None:
        self._channel = channel
        self._rundir = rundir
        self._loop = Loop()
        self._hubs = Hubs()
        self._acceptor = Acceptor(self._loop, self._hubs, Pool(pipes))
        self._containers: dict[str, Container] = {}
        self._outbox: list[Message] = []
        self._operations: dict[str, Callable[[str, Message, list[int]], Message]] = {
            "listen": self._listen,
            "up": self._up,
            "down": self._down,
            "drop": self._drop,
            "spool": self._spool,
            "flush": self._flush,
            "traffic": self._traffic,
        }

    def run(self) -> None:
        """Serve until the channel ends; then spool what is left in the log pipes."""
        self._channel.socket.setblocking(False)
        self._loop.watch(self._channel.fileno(), select.EPOLLIN, self._channel_event)
        self._loop.run()
        for container in self._containers.values():
            container.drain()
            if container.spool is not None:
                container.spool.close()

    def _channel_event(self, _events: int) -> None:
        self._send_outbox()
        for _ in range(_MESSAGES):
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            except ProtocolError:
                report()
                continue
            except OSError:
                received = None
            if received is None:
                self._loop.stop()
                return
            self._handle(*received)

    def _handle(self, message: Message, fds: list[int]) -> None:
        """Carry out one request. Descriptors that it doesn't take over, by removing them from the list, are closed."""
        answer: Message
        try:
            operation = self._operations.get(str(message.get("op")))
            if operation is None:
                raise ValueError(f"no operation {message.get('op')!r}")
            answer = {"ok": operation(str(message["container"]), message, fds)}
        except Exception as error:     # one bad request must not end the service
            answer = {"error": f"{message.get('op')}: {type(error).__name__}: {error}"}
            if "id" not in message:
                report()
        for fd in fds:
            os.close(fd)
        if "id" in message:
            self._outbox.append({"id": message["id"], **answer})
            self._loop.again(self._send_outbox)     # once this round's closing is done: an answer means that it is

    def _send_outbox(self) -> None:
        sent = 0
        try:
            for answer in self._outbox:
                self._channel.send(answer)
                sent += 1
        except BlockingIOError:        # the supervisor is busy: the rest when there is room
            pass
        except OSError:                # it is gone; reading the channel will say so
            sent = len(self._outbox)
        del self._outbox[:sent]
        self._loop.change(self._channel.fileno(), select.EPOLLIN | (select.EPOLLOUT if self._outbox else 0))

    def _container(self, name: str) -> Container:
        return self._containers.setdefault(name, Container())

    def _listen(self, name: str, message: Message, fds: list[int]) -> Message:
        port = int(message["port"])
        listening = socket.socket(fileno=fds[0])
        del fds[0]
        container = self._container(name)
        if fds and message.get("address"):
            self._place(container, str(message["address"]), fds.pop(0))
        listener = Listener(container, port, listening)
        self._acceptor.add(listener)
        container.listeners.append(listener)
        return {}

    def _up(self, name: str, message: Message, fds: list[int]) -> Message:
        self._place(self._container(name), str(message["address"]), fds.pop(0))
        return {}

    def _place(self, container: Container, address: str, hub_fd: int) -> None:
        before, was = container.hub, container.address
        container.hub, container.address = self._hubs.hold(hub_fd), address
        if before is not None:
            if was != address or before is not container.hub:
                container.settle()     # connections to where it was are of no use
            self._hubs.let_go(before)

    def _down(self, name: str, _message: Message, _fds: list[int]) -> Message:
        container = self._containers.get(name)
        if container is not None:
            hub, container.hub, container.address = container.hub, None, None
            container.settle()
            if hub is not None:
                self._hubs.let_go(hub)
        return {}

    def _drop(self, name: str, message: Message, fds: list[int]) -> Message:
        container = self._containers.get(name)
        if container is None:
            return {}
        for listener in container.listeners:
            self._acceptor.remove(listener)
        self._down(name, message, fds)
        container.drain()
        for pipe in container.log_pipes:
            pipe.close()
        if container.spool is not None:
            container.spool.close()
        del self._containers[name]
        return {}

    def _spool(self, name: str, message: Message, fds: list[int]) -> Message:
        container = self._container(name)
        path = os.path.join(self._rundir, str(message["path"]))
        if container.spool is None or container.spool_path != path:
            if container.spool is not None:
                container.drain()
                container.spool.close()
            container.spool = Spool(path, int(message.get("limit", SEGMENT_SIZE)))
            container.spool_path = path
        container.log_pipes = [pipe for pipe in container.log_pipes if pipe.open]
        for stream in range(min(2, len(fds))):
            container.log_pipes.append(LogPipe(self._loop, fds[0], stream, container.spool))
            del fds[0]
        return {}

    def _flush(self, name: str, _message: Message, _fds: list[int]) -> Message:
        container = self._containers.get(name)
        if container is None:
            return {"lost": 0}
        container.drain()
        return {"lost": container.spool.lost if container.spool is not None else 0}

    def _traffic(self, name: str, _message: Message, _fds: list[int]) -> Message:
        container = self._containers.get(name)
        if container is None:
            return {"connections": 0, "bytes": 0}
        return {"connections": container.connections, "bytes": container.moved}


def main(arguments: list[str]) -> None:
    """Serve the channel that the arguments name; returns when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)      # Ctrl-C is pytest's; we end with the supervisor
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    channel = Channel(socket.socket(fileno=int(arguments[0])))
    os.set_inheritable(channel.fileno(), False)
    Service(channel, arguments[1], int(arguments[2]) if len(arguments) > 2 else _PIPES).run()


if __name__ == "__main__":
    main(sys.argv[1:])
