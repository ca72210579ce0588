"""Which cgroups this account may make, found by making one: names and versions promise nothing."""

from __future__ import annotations

import contextlib
import os
import sys

from pytest_sealed.runtime.cgroups.files import children, read
from pytest_sealed.runtime.cgroups.hierarchy import CONTROLLERS, LEAF, SYSTEMD_RUN, Hierarchy, Refusal
from pytest_sealed.runtime.cgroups.mounts import Mount, find_mounts

__all__ = ["absent", "delegate_command", "detect", "remove_dead_probes"]

_PROBE = "sealed.probe-"   # and the pid of who tries

_DROP_IN = ("sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu memory pids\\n' | "
            "sudo tee /etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload; then log in anew")
_OUTER = ("start the outer container with a writable cgroup file system (--privileged, or -v /sys/fs/cgroup:/sys/fs/cgroup:rw; one of "
          "pytest-sealed with nested=True and a range of ids)")


def detect(root: str = "/sys/fs/cgroup", proc: str = "/proc") -> Hierarchy:
    """Return where the calling account may make cgroups.

    To be called in the host's namespaces, as the account that runs pytest.

    Args:
        root: only hierarchies mounted at or below it count.
        proc: where self/cgroup, self/mountinfo and cgroups are read.
    """
    mounts = find_mounts(root, proc)
    names = list(dict.fromkeys(controller.name for controller in CONTROLLERS["v1"]))
    if any(mount.controllers.intersection(names) for mount in mounts if mount.version == "v1"):
        return _detect_v1(mounts, proc, names)
    unified = next((mount for mount in mounts if mount.version == "v2"), None)
    if unified is not None:
        return _detect_v2(unified)
    refusal = Refusal(f"no cgroup file system is mounted below {root}", f"sudo mount -t cgroup2 cgroup2 {root}")
    return Hierarchy("none", {}, dict.fromkeys(names, refusal))


def delegate_command() -> str:
    """Return the exact `sudo … delegate` for this installation: sudo's own PATH has no virtual environment."""
    beside = os.path.join(os.path.dirname(sys.executable or ""), "sealed")
    return f"sudo {beside if os.path.isfile(beside) and not beside.startswith('/usr/') else 'sealed'} delegate"


# v1 -----------------------------------------------------------------------------------------------


def _detect_v1(mounts: list[Mount], proc: str, names: list[str]) -> Hierarchy:
    bases: dict[str, str] = {}
    refusals: dict[str, Refusal] = {}
    for name in names:
        mount = next((mount for mount in mounts if mount.version == "v1" and name in mount.controllers), None)
        found = absent(name, proc) if mount is None else _base_v1(mount)
        if isinstance(found, Refusal):
            refusals[name] = found
        else:
            bases[name] = found
    unified = next((mount for mount in mounts if mount.version == "v2"), None)
    # A process is moved between v2 cgroups by who may write to their common ancestor: hence no delegated directory here.
    if unified is None or unified.own is None or _probe(unified.own):
        return Hierarchy("v1", bases, refusals)
    return Hierarchy("hybrid", bases | {"freezer": unified.own}, refusals)


def _base_v1(mount: Mount) -> str | Refusal:
    """Return pytest's own cgroup, so that limits set on pytest hold for its containers; else the delegated one."""
    refusals = []
    if mount.own is not None:
        refusal = _probe(mount.own)
        if refusal is None:
            return mount.own
        refusals.append(refusal)
    delegated = f"{mount.point}/sealed-{os.geteuid()}"
    try:
        mine = os.lstat(delegated).st_uid == os.geteuid()
    except OSError:
        mine = False
    if mine:
        refusal = _probe(delegated)
        if refusal is None:
            return delegated
        refusals.insert(0, refusal)
    return refusals[0] if refusals else Refusal(f"pytest's own cgroup isn't visible below {mount.point}", delegate_command())


def absent(name: str, proc: str) -> Refusal:
    """Return why the v1 controller `name` is not mounted. See /proc/cgroups in cgroups(7)."""
    for line in (read(f"{proc}/cgroups") or "").splitlines():
        if line.split()[:1] == [name]:
            if line.split()[3:] == ["0"]:
                return Refusal(f"the {name} controller is disabled", f"boot with cgroup_enable={name} (kernel command line)")
            point = f"/sys/fs/cgroup/{name}"
            return Refusal(f"the {name} controller isn't mounted",
                           f"sudo mkdir -p {point} && sudo mount -t cgroup -o {name} cgroup {point}")
    return Refusal(f"this kernel has no {name} controller", "a kernel that has it, such as the distribution's own")


def _probe(directory: str) -> Refusal | None:
    """Make and remove a cgroup in `directory`; return what stood in the way."""
    trial = f"{directory}/{_PROBE}{os.getpid()}"
    try:
        with contextlib.suppress(FileExistsError):  # of a process of another PID namespace, or one that was killed
            os.mkdir(trial)
        with contextlib.suppress(FileNotFoundError):  # one of another PID namespace has removed it
            os.rmdir(trial)
    except OSError as error:
        remedy = _OUTER if error.errno == 30 else delegate_command()   # EROFS
        return Refusal(f"this account can't make a cgroup in {directory} ({error.strerror})", remedy)
    return None


def remove_dead_probes(hierarchy: Hierarchy, proc: str = "/proc") -> list[str]:
    """Remove the cgroups of processes that were killed while they tried whether they may make one; return their directories.

    Those of a process of another PID namespace may go with them, which it doesn't mind.
    """
    removed = []
    for base in dict.fromkeys(hierarchy.bases.values()):
        for name in children(base):
            if name.startswith(_PROBE) and not os.path.exists(f"{proc}/{name.removeprefix(_PROBE)}"):
                with contextlib.suppress(OSError):   # another sweep was quicker, or it is another account's
                    os.rmdir(f"{base}/{name}")
                    removed.append(f"{base}/{name}")
    return removed


# v2 -----------------------------------------------------------------------------------------------


def _detect_v2(mount: Mount) -> Hierarchy:
    refusal = Refusal(f"pytest's own cgroup isn't visible below {mount.point}", SYSTEMD_RUN)
    for base in _candidates(mount):
        failed = _probe(base)
        if failed is None:
            return _usable_v2(base)
        refusal = Refusal(failed.reason, failed.remedy if failed.remedy == _OUTER else SYSTEMD_RUN)
    return Hierarchy("v2", {}, dict.fromkeys((controller.name for controller in CONTROLLERS["v2"]), refusal))


def _candidates(mount: Mount) -> list[str]:
    """Return the cgroups to try: pytest's own, or as root, where that one isn't pytest's to divide, the top."""
    candidates = []
    if mount.own is not None:
        own = os.path.dirname(mount.own) if os.path.basename(mount.own) == LEAF else mount.own
        if os.geteuid() != 0 or own == mount.point or not _occupied(own) or _delegated(own):
            candidates.append(own)
    if os.geteuid() == 0 and _is_top(mount.point):
        candidates.append(mount.point)
    return list(dict.fromkeys(candidates))


def _usable_v2(base: str) -> Hierarchy:
    offered = (read(f"{base}/cgroup.controllers") or "").split()
    enabled = (read(f"{base}/cgroup.subtree_control") or "").split()
    bases, refusals = {}, {}
    for controller in CONTROLLERS["v2"]:
        if controller.core or controller.name in offered:
            bases[controller.name] = base
        else:
            refusals[controller.name] = Refusal(f"the {controller.name} controller isn't delegated to {base}", _DROP_IN)
    hierarchy = Hierarchy("v2", bases, refusals)
    hierarchy.needs_leaf = not set(hierarchy.to_enable()).issubset(enabled) and _occupied(base)
    return hierarchy


def _occupied(directory: str) -> bool:
    """Return whether processes keep this cgroup from handing controllers on; the top is exempt."""
    return not _is_top(directory) and bool((read(f"{directory}/cgroup.procs") or "").split())


def _is_top(directory: str) -> bool:
    """Return whether this is the root of the whole hierarchy, not only of a cgroup namespace: that one has no type."""
    return not os.path.exists(f"{directory}/cgroup.type")


def _delegated(directory: str) -> bool:
    """Return whether systemd has left this cgroup to us. See systemd's CGROUP_DELEGATION.md."""
    for name in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(directory, name) == b"1":
                return True
        except OSError:
            continue
    return False
