"""From a request to the ordered operations that make its container. Pure: tested without a kernel."""

from __future__ import annotations

from pytest_sealed.linux.mounts import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY
from pytest_sealed.runtime import operations as op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_sealed.runtime.idmap import IdMap

__all__ = ["DEFAULT_SCRATCH", "MASKED", "READ_ONLY", "Facts", "plan"]

DEFAULT_SCRATCH = 1 << 30   # bytes of a writable layer in memory when the container's memory isn't limited

MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC


class Facts:
    """What the supervisor knows of a container beyond the request.

    Attributes:
        scratch_point: an empty directory of the session's, for the tmpfs of the writable layer, and for that of secrets.
        disk: folder for a writable layer on disk.
        etc: folder with the container's hosts file.
        procs: `cgroup.procs` files to enter by.
        cgroup_binds: (directory, path inside) that show a container its own limits (cgroup v1).
        cgroup2: whether cgroup2 can be mounted inside.
        delegated: whether the container may make cgroups below its own.
        leaf: the cgroup v2 below the container's own that its processes are in, where it may divide that; else empty.
        network: descriptor of the container's network namespace, or None.
        attached: (descriptor, source, target) of host folders whose ids are mapped.
        bound: (source, target, read-only) of host folders as they are.
        kept: descriptor of the mount namespace of an earlier run, or None.
        memory_upper: whether an overlay's upper works on tmpfs here.
        files: descriptor of a memory file with what it is given, or -1.
        secrets: descriptor of a memory file that holds them, or -1.
        copied: whether the layers were copied to `root` in the folder on disk, since an upper works nowhere.
    """

    __slots__ = ("attached", "bound", "cgroup2", "cgroup_binds", "copied", "delegated", "disk", "etc", "files", "kept", "leaf",
                 "memory_upper", "network", "procs", "scratch_point", "secrets")

    def __init__(self, *, scratch_point: str, disk: str, etc: str, procs: list[str], memory_upper: bool, cgroup2: bool = False,
                 cgroup_binds: list[tuple[str, str]] | None = None, network: int | None = None,
                 attached: list[tuple[int, str, str]] | None = None,
                 bound: list[tuple[str, str, bool]] | None = None, kept: int | None = None, copied: bool = False,
                 delegated: bool = False, leaf: str = "", secrets: int = -1, files: int = -1) -> None:
        self.scratch_point, self.disk, self.etc, self.procs, self.memory_upper = scratch_point, disk, etc, procs, memory_upper
        self.cgroup2, self.cgroup_binds, self.network, self.attached, self.kept = cgroup2, cgroup_binds, network, attached or [], kept
        self.bound, self.copied, self.delegated, self.leaf = bound or [], copied, delegated, leaf
        self.secrets, self.files = secrets, files


def plan(request: dict[str, Any], facts: Facts, ids: IdMap) -> list[op.Operation]:
    """Return the operations for `request`, in the order in which they must happen."""
    nested = request["nested"]   # then /proc and /sys stay whole: no other can be mounted beside one of which something is hidden
    return [
        op.EnterCgroup(tuple(facts.procs)),
        *([op.EnterLeaf(facts.leaf)] if facts.leaf else []),
        *([op.JoinNetwork(facts.network)] if facts.network is not None else _loopback(ids)),
        op.Hostname(request["hostname"]),
        *(op.Sysctl(name, value) for name, value in request["sysctls"]),
        *_root(request, facts),
        *([op.Given(facts.files)] if facts.files >= 0 and facts.kept is None else []),   # before mounts: no link leads out of the root
        *_kernel(request, facts, ids),
        *_files(request, facts),
        *_mounts(request, facts),
        *(op.Volume(request["read_only"], path) for path in request["volumes"]),
        *([] if nested else [op.Masked(path) for path in MASKED]),
        *([] if nested else [op.ReadOnly(path) for path in READ_ONLY]),
        op.WorkingDirectory(request["workdir"]),
        *([op.ReadOnlyRoot()] if request["read_only"] else []),
        op.Pivot(),
    ]


def _loopback(ids: IdMap) -> list[op.Operation]:
    """Return what the network service does for networks: any user may ping, and listen below 1024."""
    groups = "0 0" if ids.single else f"{ids.outer(0)} {ids.outer(ids.count - 1)}"
    return [op.LoopbackUp(), op.Sysctl("net.ipv4.ip_unprivileged_port_start", "0"), op.Sysctl("net.ipv4.ping_group_range", groups)]


def _root(request: dict[str, Any], facts: Facts) -> list[op.Operation]:
    if facts.kept is not None:
        return [op.KeepRoot(tuple(fd for fd, _, _ in facts.attached), facts.kept)]
    if facts.copied:
        return [op.Copied(f"{facts.disk}/root")]
    if request["scratch"] == "disk" or not facts.memory_upper:
        return [op.DiskScratch(facts.disk), op.Overlay(tuple(request["layers"]), facts.disk)]
    memory = request["limits"].get("memory")
    # below the memory limit, so that a full disk is ENOSPC and no OOM kill
    size = request["scratch_size"] or (memory // 2 if memory else DEFAULT_SCRATCH)
    return [op.MemoryScratch(facts.scratch_point, size), op.Overlay(tuple(request["layers"]), facts.scratch_point)]


def _kernel(request: dict[str, Any], facts: Facts, ids: IdMap) -> list[op.Operation]:
    terminals = "newinstance,ptmxmode=0666,mode=0620" + ("" if ids.single else f",gid={ids.outer(5)}")
    root = f",uid={ids.outer(0)},gid={ids.outer(0)}"
    steps: list[op.Operation] = [
        op.Kernel("", _SAFE, "proc", "/proc"),
        op.Kernel("", _SAFE | MS_RDONLY, "sysfs", "/sys"),
        op.Kernel(f"mode=755,size=64k{root}", MS_NOSUID | MS_NOEXEC, "tmpfs", "/dev"),
        op.Devices(),
        op.Mounted(terminals, MS_NOSUID | MS_NOEXEC, "devpts", "/dev/pts"),
        op.Mounted(f"size={request['shm_size']},mode=1777", _SAFE, "tmpfs", "/dev/shm"),
        op.Mounted("", _SAFE, "mqueue", "/dev/mqueue"),
    ]
    if facts.cgroup2:
        steps.append(op.Mounted("", _SAFE | (0 if facts.delegated else MS_RDONLY), "cgroup2", "/sys/fs/cgroup"))
    elif facts.cgroup_binds:
        steps.append(op.Mounted("mode=755,size=64k", _SAFE, "tmpfs", "/sys/fs/cgroup"))
        steps += [op.Bound(not facts.delegated, source, target) for source, target in facts.cgroup_binds]
    return steps


def _mounts(request: dict[str, Any], facts: Facts) -> list[op.Operation]:
    """Return what was asked for, outer targets first: one that lies in another would be hidden by it."""
    steps: list[op.Tmpfs | op.Attached | op.Bound | op.Secrets] = [
        *(op.Tmpfs(row["mode"], row["size"], row["target"], row["user"]) for row in request["tmpfs"]),
        *(op.Attached(*row) for row in facts.attached),
        *(op.Bound(read_only, source, target) for source, target, read_only in facts.bound),
    ]
    secrets = request["secrets"]
    if secrets:
        steps.append(op.Secrets(facts.secrets, tuple(secrets["names"]), facts.scratch_point, secrets["target"], request["user"]))
    return [*sorted(steps, key=lambda step: step.target.count("/"))]


def _files(request: dict[str, Any], facts: Facts) -> list[op.Operation]:
    return [
        op.Written(f"{request['hostname']}\n", "/etc/hostname"),
        op.Written(request["resolv_conf"], "/etc/resolv.conf"),
        op.Written("", "/etc/hosts"),   # a mount follows links, and the image's may lead to /dev/null
        op.Bound(False, f"{facts.etc}/hosts", "/etc/hosts"),
    ]
