"""A container whose PID 1 has changed its root, as some servers do: commands run in the container's own."""

from __future__ import annotations

from boxes import EITHER_IDS, eventually

from pytest_sealed import Sandbox

JAILED = "mkdir -p /jail/bin; cp /bin/busybox /jail/bin/sleep; exec chroot /jail /bin/sleep 1000000"


@EITHER_IDS
def test_a_command_runs_in_the_containers_root_though_pid_1_has_another(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", JAILED])
    eventually(lambda: container.exec(["cat", "/proc/1/cmdline"]).stdout_bytes.startswith(b"/bin/sleep\0"), "PID 1 has changed its root")
    assert container.exec(["cat", "/proc/1/root/etc/passwd"]).exit_code != 0
    result = container.exec(["sh", "-c", "id -un; pwd; ls -d /jail"], user="root", workdir="/etc", check=True)
    assert result.stdout.split() == ["root", "/etc", "/jail"]
