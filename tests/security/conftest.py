"""Attacks: what a container, an image, an archive or a peer tries, and what a deliberately weakened runtime would let it do."""

from __future__ import annotations

import contextlib

from sandboxes import (  # noqa: F401
    busybox,
    fetched,
    memory_layers,
    new_store,
    root_sandbox,
    sandbox,
    several_ids,
    shared,
    single,
    single_root_sandbox,
    store,
)

with contextlib.suppress(ImportError):   # virtual machines have none, and run no test that needs it
    from hypothesis import HealthCheck, settings

    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")
