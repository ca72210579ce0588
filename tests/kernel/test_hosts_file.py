"""The hosts file of a container is its own to write, and only its own."""

from __future__ import annotations

from boxes import EITHER_IDS, idle, sh

from pytest_sealed import Sandbox

FILL = "head -c 100000000 /dev/zero >> /etc/hosts; : > /etc/hosts; head -c 100000000 /dev/zero >> /etc/hosts"


@EITHER_IDS
def test_a_container_may_add_to_its_hosts_file(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    assert sh(container, "echo 127.0.0.1 mine >> /etc/hosts; ping -c 1 mine > /dev/null 2>&1; grep mine /etc/hosts") == "127.0.0.1 mine\n"


def test_one_that_fills_its_hosts_file_holds_up_no_other_container(root_sandbox: Sandbox) -> None:
    with Sandbox(parent=root_sandbox) as one, Sandbox(parent=root_sandbox) as other:
        empty, neighbour = idle(other, name="empty"), idle(other, name="neighbour")
        sh(empty, ": > /etc/hosts")   # so that a page is needed to write it
        assert idle(one, name="filling").exec(["sh", "-c", FILL]).exit_code != 0
        newcomer = idle(other, name="newcomer")
        assert sh(newcomer, "grep -c neighbour /etc/hosts") == "1\n"
        assert "newcomer" in sh(empty, "cat /etc/hosts")
        neighbour.remove()
        assert "neighbour" not in sh(empty, "cat /etc/hosts")
        again = idle(one, name="again")   # on the network of the one whose own can't be written
        assert "again" in sh(again, "cat /etc/hosts")
