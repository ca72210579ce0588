"""One session for all kernel tests; each test has a sandbox of its own in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_sealed import Sandbox


@pytest.fixture(scope="session")
def root_sandbox() -> Iterator[Sandbox]:
    """The session: a missing image fails the tests that need it, and names the command."""
    with Sandbox(name="kernel tests") as root:
        yield root


@pytest.fixture
def sandbox(root_sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox for one test."""
    with Sandbox(parent=root_sandbox, name=request.node.name) as sandbox:
        yield sandbox
