"""Userlands of two Debian releases, and one without a C library, on one network: each serves, and each asks the other by name."""

from __future__ import annotations

from pytest_sealed import Sandbox, image

SERVER = """
import http.server, os
os.makedirs("/srv/x")
os.chdir("/srv/x")
open("name", "w").write("bookworm")
http.server.HTTPServer(("", 8000), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
ASK = """
import platform, sys, urllib.request
print(platform.libc_ver()[0], sys.version_info[1], urllib.request.urlopen("http://trixie:8000/name").read().decode())
"""


def test_releases_side_by_side_reach_each_other_by_name(sandbox: Sandbox) -> None:
    old = sandbox.run(image("python", wait=None), ["python3", "-c", SERVER], name="bookworm", user="0")
    script = "mkdir -p /srv && echo trixie > /srv/name && exec httpd -f -p 8000 -h /srv"
    new = sandbox.run(image("busybox", wait=None), ["sh", "-c", script], name="trixie", user="0")
    old.wait_for_port(8000)
    new.wait_for_port(8000)
    assert new.exec(["wget", "-q", "-O", "-", "http://bookworm:8000/name"]).stdout == "bookworm"
    assert old.exec(["python3", "-c", ASK]).stdout.split() == ["glibc", "11", "trixie"]
    assert "v1.37" in new.exec(["busybox"]).stdout.splitlines()[0]
