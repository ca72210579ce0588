"""Suites as a user would write them, and how to run them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

PRELUDE = r'''
import pytest
from pytest_sealed import Container, ContainerSpec, Network, Sandbox, container_fixture, image, log, network_fixture, tcp

def box(**options):
    """A small web server that tells its name."""
    return image("busybox", **{"command": ["httpd", "-f", "-h", "/etc", "-p", "80"], "wait": tcp(80), **options})

def say(text, then="sleep 1000", **options):
    """Something that logs a line."""
    return image("busybox", command=["sh", "-c", f"echo '{text}'; {then}"], **{"wait": log(text), **options})

def reach(container, name):
    """Return the name that the web server answers which `container` reaches as `name`, else the error."""
    answer = container.exec(["nc", "-w", "2", name, "80"], stdin="GET /hostname HTTP/1.0\r\n\r\n")
    return answer.stdout.splitlines()[-1] if answer.exit_code == 0 else answer.stderr
'''


def run(pytester: pytest.Pytester, test: str, *arguments: str, conftest: str = "", **outcomes: int) -> pytest.RunResult:
    """Run a suite of one module (and a conftest.py), compare its outcomes, and return what pytest printed."""
    if conftest:
        pytester.makeconftest(PRELUDE + conftest)
    pytester.makepyfile(PRELUDE + test)
    result = pytester.runpytest(*arguments)
    result.assert_outcomes(**(outcomes or {"passed": 1}))
    return result


def started(result: pytest.RunResult) -> int:
    """Return how many containers the summary counts, after checking that nothing was left behind."""
    line = next(line for line in result.outlines if line.startswith("sealed:") and "started" in line)
    assert line.endswith("nothing left behind")
    return int(line.split()[1])
