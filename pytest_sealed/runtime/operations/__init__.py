"""The steps that make a container: small immutable operations that describe and execute themselves.

`plan.plan()` puts them in order; `execute` runs them in the forked child, in the session's user
namespace, before it enters the container's own. The image's files are hostile: every path below the
root is resolved by openat2(2) with RESOLVE_IN_ROOT, and mounted on by descriptor.
"""

from __future__ import annotations

from pytest_sealed.runtime.operations.base import Context, Operation, StepFailed, execute
from pytest_sealed.runtime.operations.contents import (
    Attached,
    Bound,
    Devices,
    Given,
    Kernel,
    Masked,
    Mounted,
    ReadOnly,
    Secrets,
    Tmpfs,
    Volume,
    WorkingDirectory,
    Written,
)
from pytest_sealed.runtime.operations.entering import EnterCgroup, EnterLeaf, Hostname, JoinNetwork, LoopbackUp, Sysctl
from pytest_sealed.runtime.operations.root import Copied, DiskScratch, KeepRoot, MemoryScratch, Overlay, Pivot, ReadOnlyRoot

__all__ = [
    "Attached",
    "Bound",
    "Context",
    "Copied",
    "Devices",
    "DiskScratch",
    "EnterCgroup",
    "EnterLeaf",
    "Given",
    "Hostname",
    "JoinNetwork",
    "KeepRoot",
    "Kernel",
    "LoopbackUp",
    "Masked",
    "MemoryScratch",
    "Mounted",
    "Operation",
    "Overlay",
    "Pivot",
    "ReadOnly",
    "ReadOnlyRoot",
    "Secrets",
    "StepFailed",
    "Sysctl",
    "Tmpfs",
    "Volume",
    "WorkingDirectory",
    "Written",
    "execute",
]
