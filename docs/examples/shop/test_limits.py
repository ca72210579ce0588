"""What happens at the limits, by the kernel's own figures."""

from __future__ import annotations

import time

import httpx
import pytest

from pytest_sealed import Container


def test_too_large_an_export_runs_out_of_memory(web: Container) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(web.url(8000, "/export?megabytes=500"), timeout=30)
    web.wait(timeout=10)
    assert web.oom_killed
    assert web.stats().oom_kills == 1


def test_a_modest_export_stays_below_the_limit(web: Container) -> None:
    assert httpx.get(web.url(8000, "/export?megabytes=20"), timeout=30).json() == {"bytes": 20 << 20}
    stats = web.stats()
    assert stats.memory_peak is not None
    assert stats.memory_limit is not None
    assert 20 << 20 < stats.memory_peak < stats.memory_limit == 128 << 20


@pytest.mark.sealed("web", cpus=0.25, wait_timeout=300)   # its start takes four times as long, too
def test_a_busy_application_keeps_to_its_share_of_the_cpu(web: Container) -> None:
    before, began = web.stats(), time.monotonic()
    httpx.get(web.url(8000, "/signature?rounds=800000"), timeout=120).raise_for_status()
    after, seconds = web.stats(), time.monotonic() - began
    assert before.cpu_seconds is not None
    assert before.throttled_seconds is not None
    assert after.cpu_seconds is not None
    assert after.throttled_seconds is not None
    assert after.throttled_seconds > before.throttled_seconds
    assert after.cpu_seconds - before.cpu_seconds < 0.35 * seconds   # a quarter, and what the first period may be ahead
