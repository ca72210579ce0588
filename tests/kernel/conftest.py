from __future__ import annotations

from sandboxes import (  # noqa: F401
    busybox,
    fetched,
    home,
    memory_layers,
    new_store,
    plain,
    recipe,
    root_sandbox,
    sandbox,
    several_ids,
    single,
    single_root_sandbox,
    store,
)
