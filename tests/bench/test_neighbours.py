"""What a container that takes all it can get costs requests to another: a ratio of the same service, measured in turn. Run with -s."""

from __future__ import annotations

import http.client
import statistics
import time
from collections.abc import Iterator

import pytest

from pytest_sealed import Sandbox, tcp

AT_MOST = 2.0     # times the latency beside a neighbour that is paused
ROUNDS, REQUESTS = 10, 40

# Each has half a CPU: what a CPU takes from another is that CPU's limit, and no defence of ours.
GREEDY = {
    "output": "yes a line of output",
    "forks": "while :; do (true &); done",
    "disk": "while :; do cat /dev/zero > /srv/big; rm /srv/big; done 2> /dev/null",
    "inodes": "while :; do seq 1 20000 | xargs -n 500 touch; rm -f [0-9]*; done 2> /dev/null",
    "memory": "while :; do tail /dev/zero; done",
    "connections": "while :; do nc -w 1 web 80 < /dev/null > /dev/null; done",
}


@pytest.fixture(scope="module")
def root() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.mark.parametrize("kind", GREEDY)
def test_beside_a_greedy_neighbour_a_request_takes_at_most_twice_as_long(root: Sandbox, kind: str) -> None:
    with Sandbox(parent=root) as sandbox:
        web = sandbox.run("busybox", ["httpd", "-f", "-h", "/etc", "-p", "80"], name="web", wait=tcp(80))
        port = web.port(80)
        greedy = sandbox.run("busybox", ["sh", "-c", f"cd /srv; {GREEDY[kind]}"], cpus=0.5, memory="64M", pids=64, init=True)

        def latencies() -> list[float]:
            found = []
            for _ in range(REQUESTS):
                began = time.perf_counter()
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("GET", "/hostname")
                assert connection.getresponse().read() == b"web\n"
                connection.close()
                found.append((time.perf_counter() - began) * 1000)
            return found
        alone, beside = [], []
        for _ in range(ROUNDS):
            greedy.pause()
            alone += latencies()
            greedy.unpause()
            beside += latencies()
        ratio = statistics.median(beside) / statistics.median(alone)
        print(f"\n{kind:12} median of a request {statistics.median(alone):6.2f} ms alone, {statistics.median(beside):6.2f} ms beside it: "
              f"ratio {ratio:.2f}, promised at most {AT_MOST}")
        assert ratio <= AT_MOST
