"""Later tests: nothing of a container is in the next one, wherever it has left it."""

from __future__ import annotations

from typing import Any

import pytest
from boxes import EITHER_IDS, EITHER_SCRATCH, Scratch, eventually, idle, sh

from pytest_sealed import Container, Sandbox

# Everything that a container can write to or set, and then some.
POLLUTE = """
mark=of-an-earlier-test
for folder in $(find / -xdev -type d; find /dev /run /tmp /var /proc/self /sys/fs/cgroup -type d 2> /dev/null); do
    echo $mark > $folder/$mark
done
for file in /etc/hosts /etc/hostname /etc/resolv.conf /etc/passwd /etc/profile /etc/mtab; do echo $mark >> $file; done
mkfifo /dev/shm/fifo /tmp/fifo
chmod 777 /etc /dev/shm /root; chmod 4755 /bin/busybox; chown 1000 /etc/passwd; rm -rf /var /usr/share
echo $mark > /proc/sys/kernel/domainname
echo 5 > /proc/sys/net/ipv4/ip_default_ttl
ip link set eth0 mtu 1000; ip addr add 10.9.9.9/24 dev lo; ip route add 10.9.8.0/24 dev lo
(sleep 1000000 &)
nc -l -p 4444 &
"""

# What can be seen of it: names with owners, modes and sizes; what files say; what the kernel says.
LOOK = """
find / -xdev -exec stat -c '%n %F %u:%g %a %s' {} + | sort
find /dev /run /tmp -exec stat -c '%n %F %u:%g %a' {} + | sort
cat /etc/hosts /etc/hostname /etc/resolv.conf /etc/passwd
cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/domainname /proc/sys/kernel/shmmax /proc/sysvipc/*
ip addr show lo | grep inet; ip route; cat /proc/net/unix /proc/net/tcp | wc -l; cat /proc/mounts | grep -v overlay; umask; ulimit -a
ls /proc/[0-9]*/comm; env
"""


def look(container: Container) -> list[str]:
    return [line for line in sh(container, f"{{ {LOOK} }} 2> /dev/null; true").splitlines() if "lowerdir" not in line]


@EITHER_IDS
@EITHER_SCRATCH
@pytest.mark.parametrize("network", [True, False])
def test_a_container_finds_nothing_of_the_one_before(sandbox: Sandbox, scratch: Scratch, network: bool) -> None:
    options: dict[str, Any] = {} if network else {"network": None}
    with Sandbox(parent=sandbox) as inner:
        before = look(idle(inner, scratch=scratch, name="web", **options))
    assert len(before) > 100
    with Sandbox(parent=sandbox) as inner:
        dirty = idle(inner, scratch=scratch, name="web", **options)
        dirty.exec(["sh", "-c", POLLUTE], timeout=60)
        eventually(lambda: "of-an-earlier-test" in "".join(look(dirty)), "it has left something")
        assert look(dirty) != before   # so that a difference would be seen
        dirty.stop(timeout=0)
        dirty.restart()
        assert "of-an-earlier-test" in "".join(look(dirty)), "a restart keeps files, and shows what a container that isn't fresh has"
    for _ in range(3):
        with Sandbox(parent=sandbox) as inner:
            assert look(idle(inner, scratch=scratch, name="web", **options)) == before
