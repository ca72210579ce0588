"""Users as strings, against passwd and group files of an image that may be hostile."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_sealed.runtime.user import Account, UnknownUser, resolve_user

COUNT = 65536
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
postgres:x:70:70::/var/lib/postgresql:/bin/sh
1000:x:2000:2000:a name of digits:/home/digits:/bin/sh
app:x:1000:1000::/home/app:/bin/sh
far:x:65536:1::/:/bin/sh
low:x:-1:1::/:/bin/sh
odd:x:0x10:1::/:/bin/sh
homeless:x:71:71:::/bin/sh
nobody:x:65534:65534::/nonexistent:/bin/sh
"""
GROUP = """\
root:x:0:
daemon:x:1:
postgres:x:70:
tls:x:101:postgres,app
media:x:102:app
far:x:70000:
staff:x:50:far
wheel
"""

Resolve = Callable[[str], Account]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    folder = tmp_path / "root/etc"
    folder.mkdir(parents=True)
    (folder / "passwd").write_text(PASSWD)
    (folder / "group").write_text(GROUP)
    return folder


@pytest.fixture
def resolve(etc: Path) -> Iterator[Resolve]:
    root = os.open(etc.parent, os.O_PATH | os.O_DIRECTORY)
    yield lambda text: resolve_user(text, root_fd=root, count=COUNT)
    os.close(root)


def ids(account: Account) -> tuple[int, int, list[int]]:
    return account.uid, account.gid, account.groups


# ---------------------------------------------------------------- who is meant


@pytest.mark.parametrize(("text", "uid", "gid", "groups", "home"), [
    ("", 0, 0, [0], "/root"),
    ("root", 0, 0, [0], "/root"),
    ("0", 0, 0, [0], "/root"),
    ("postgres", 70, 70, [70, 101], "/var/lib/postgresql"),
    ("70", 70, 70, [70, 101], "/var/lib/postgresql"),
    ("app", 1000, 1000, [101, 102, 1000], "/home/app"),
    ("1000", 1000, 1000, [101, 102, 1000], "/home/app"),   # a number is an id, whoever has it for a name
    ("4711", 4711, 0, [0], "/"),
    ("65535", 65535, 0, [0], "/"),
    ("homeless", 71, 71, [71], "/"),
    ("postgres:tls", 70, 101, [101], "/var/lib/postgresql"),
    ("postgres:5", 70, 5, [5], "/var/lib/postgresql"),
    ("70:101", 70, 101, [101], "/var/lib/postgresql"),
    ("1:1", 1, 1, [1], "/usr/sbin"),
    ("4711:tls", 4711, 101, [101], "/"),
    ("4711:4711", 4711, 4711, [4711], "/"),
    (":0", 0, 0, [0], "/root"),
    (":media", 0, 102, [102], "/root"),
])
def test_a_name_or_a_number_with_or_without_a_group(resolve: Resolve, text: str, uid: int, gid: int, groups: list[int], home: str) -> None:
    account = resolve(text)
    assert ids(account) == (uid, gid, groups)
    assert account.home == home


@pytest.mark.parametrize(("text", "why"), [
    ("1:", "is not NAME, UID, NAME:GROUP or UID:GID"),
    (":", "is not NAME, UID, NAME:GROUP or UID:GID"),
    ("root:root:root", "is not NAME, UID, NAME:GROUP or UID:GID"),
    ("-1", "id -1 is none of the container's, 0 to 65535"),
    ("01", "id 01 is none of the container's"),
    ("--1", "has no user '--1'"),
    ("-0", "id -0 is none of the container's"),
    ("65536", "id 65536 is none of the container's"),
    ("4294967295", "id 4294967295 is none of the container's"),
    ("4294967296", "id 4294967296 is none of the container's"),   # would wrap round to root
    ("18446744073709551616", "is none of the container's"),
    ("1:-1", "id -1 is none of the container's"),
    ("1:4294967295", "id 4294967295 is none of the container's"),
    ("nosuch", "the container's /etc/passwd has no user 'nosuch'"),
    ("Root", "the container's /etc/passwd has no user 'Root'"),
    ("root:nosuch", "the container's /etc/group has no group 'nosuch'"),
    (" 0", "has no user ' 0'"),
    ("+1", "has no user '+1'"),
    ("1_0", "has no user '1_0'"),
    ("0x0", "has no user '0x0'"),
    ("\N{ARABIC-INDIC DIGIT ONE}", "has no user"),
    ("\N{SUPERSCRIPT TWO}", "has no user"),
    ("far", "id 65536 is none of the container's"),
    ("low", "id -1 is none of the container's"),
    ("odd", "the container's files give the id '0x10', which is no number"),
    ("root:far", "id 70000 is none of the container's"),
])
def test_whoever_is_not_there_is_refused_with_the_reason(resolve: Resolve, text: str, why: str) -> None:
    with pytest.raises(UnknownUser, match=re.escape(why)):
        resolve(text)


@pytest.mark.parametrize("digits", [5000, 100_000])
def test_a_number_of_thousands_of_digits_is_refused_like_any_other(resolve: Resolve, etc: Path, digits: int) -> None:
    with pytest.raises(UnknownUser, match=r"^id 99999999999999999999… is none of the container's, 0 to 65535$"):
        resolve("9" * digits)
    (etc / "passwd").write_text(f"app:x:{'9' * digits}:0::/:/bin/sh\n")
    with pytest.raises(UnknownUser, match="is none of the container's"):
        resolve("app")


def test_the_first_row_of_a_name_counts(resolve: Resolve, etc: Path) -> None:
    (etc / "passwd").write_text("app:x:5:5::/first:/bin/sh\napp:x:0:0::/second:/bin/sh\n")
    assert ids(resolve("app"))[:2] == (5, 5)
    assert resolve("app").home == "/first"


# ---------------------------------------------------------------- hostile files


@pytest.mark.parametrize("name", ["passwd", "group"])
def test_without_the_files_numbers_still_count(resolve: Resolve, etc: Path, name: str) -> None:
    (etc / name).unlink()
    assert ids(resolve("4711:4712")) == (4711, 4712, [4712])


def test_without_a_passwd_file_nobody_has_a_name(resolve: Resolve, etc: Path) -> None:
    (etc / "passwd").unlink()
    assert ids(resolve("")) == (0, 0, [0])
    with pytest.raises(UnknownUser, match="has no user 'root'"):
        resolve("root")


@pytest.mark.parametrize("name", ["passwd", "group"])
def test_a_fifo_neither_hangs_nor_counts(resolve: Resolve, etc: Path, name: str) -> None:
    (etc / name).unlink()
    os.mkfifo(etc / name)
    assert ids(resolve("4711:4712")) == (4711, 4712, [4712])
    with pytest.raises(UnknownUser):
        resolve("nosuch:nosuch")


@pytest.mark.parametrize("name", ["passwd", "group"])
def test_a_folder_instead_of_a_file_does_not_count(resolve: Resolve, etc: Path, name: str) -> None:
    (etc / name).unlink()
    (etc / name).mkdir()
    assert ids(resolve("4711:4712")) == (4711, 4712, [4712])


@pytest.mark.parametrize("target", ["{outside}", "../../outside", "/../../../outside", "/proc/self/root{outside}"])
def test_a_link_that_leads_out_of_the_root_finds_nobody(resolve: Resolve, etc: Path, tmp_path: Path, target: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text("intruder:x:0:0::/root:/bin/sh\n")
    (etc / "passwd").unlink()
    (etc / "passwd").symlink_to(target.format(outside=outside))
    with pytest.raises(UnknownUser, match="has no user 'intruder'"):
        resolve("intruder")


def test_a_link_within_the_root_is_followed_as_the_container_sees_it(resolve: Resolve, etc: Path) -> None:
    (etc / "passwd").rename(etc / "passwd.real")
    (etc / "passwd").symlink_to("/etc/passwd.real")
    assert resolve("postgres").uid == 70


def test_a_loop_of_links_finds_nobody(resolve: Resolve, etc: Path) -> None:
    (etc / "passwd").unlink()
    (etc / "passwd").symlink_to("passwd")
    with pytest.raises(UnknownUser):
        resolve("root")


def test_of_a_huge_file_the_beginning_counts(resolve: Resolve, etc: Path) -> None:
    with (etc / "passwd").open("w") as file:
        file.write("early:x:5:5::/:/bin/sh\n")
        file.write("filler:x:6:6::/:/bin/sh\n" * 50_000)
        file.write("late:x:0:0::/:/bin/sh\n")
        file.truncate(1 << 40)   # sparse: nobody reads a terabyte of zeros
    assert resolve("early").uid == 5
    with pytest.raises(UnknownUser):
        resolve("late")


@pytest.mark.parametrize("row", ["app", "app:x", "app:x:0", "app:x:0:0", ":x:0:0::/:/bin/sh", "app:x:::::", "app:x: 0:0::/:/bin/sh",
                                 "\0app:x:0:0::/:/bin/sh", "#app:x:0:0::/:/bin/sh", "\ufeffapp:x:0:0::/:/bin/sh", "+app::::::"])
def test_a_nonsense_row_is_nobody(resolve: Resolve, etc: Path, row: str) -> None:
    (etc / "passwd").write_text(f"{row}\n")
    with pytest.raises(UnknownUser):
        resolve("app")


def test_nonsense_rows_hide_no_good_one(resolve: Resolve, etc: Path) -> None:
    (etc / "passwd").write_bytes(b"\xff\xfe\n:::\n\n\0\0\napp\nroot:x:nan:nan::::\r\n" + PASSWD.encode())
    (etc / "group").write_bytes(b"\xff\n\n:\nthree:x:5\ntls\ntls:x:\xc2\xb2:app\n" + GROUP.encode())
    assert ids(resolve("app")) == (1000, 1000, [101, 102, 1000])


def test_a_row_without_a_name_is_nobodys(resolve: Resolve, etc: Path) -> None:
    (etc / "passwd").write_text(":x:0:5::/evil:/bin/sh\n")
    assert ids(resolve("0")) == (0, 0, [0])
    assert resolve("0").home == "/"


@pytest.mark.parametrize("upper", ["none", "passwd", "group", "both"])
def test_of_several_layers_the_uppermost_that_has_a_file_counts(etc: Path, tmp_path: Path, upper: str) -> None:
    layer = tmp_path / "layer"
    (layer / "etc").mkdir(parents=True)
    for name, text in (("passwd", "app:x:5:6::/above:/bin/sh\n"), ("group", "above:x:7:app\n")):
        if upper in (name, "both"):
            (layer / "etc" / name).write_text(text)
    roots = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (layer, etc.parent)]
    account = resolve_user("app", root_fd=roots[0], below=(roots[1],), count=COUNT)
    assert ids(account) == {"none": (1000, 1000, [101, 102, 1000]), "passwd": (5, 6, [6, 101, 102]), "group": (1000, 1000, [7, 1000]),
                            "both": (5, 6, [6, 7])}[upper]
    for root in roots:
        os.close(root)


# ---------------------------------------------------------------- anything at all

A_LINE = st.lists(st.sampled_from(["app", "root", "", "x", "0", "70", "-1", "01", "99999999999", "²", "٣", "\0", "a,app", ",", "/", " "]),
                  max_size=8).map(":".join)
A_FILE = st.one_of(st.binary(max_size=200), st.lists(A_LINE, max_size=6).map("\n".join).map(str.encode))
A_USER = st.one_of(st.text(max_size=20), st.sampled_from(["", "app", "root", "0", "70", "app:app", "0:x", ":", "a:b:c", "²", "٣:٣"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example(passwd=b"app:x:0:0::/:/", group=b"x:x:\xc2\xb2:app", user="app")
@given(passwd=A_FILE, group=A_FILE, user=A_USER)
def test_whatever_is_asked_of_whatever_files_is_an_account_of_the_container_or_unknown(
        resolve: Resolve, etc: Path, passwd: bytes, group: bytes, user: str) -> None:
    (etc / "passwd").write_bytes(passwd)
    (etc / "group").write_bytes(group)
    try:
        account = resolve(user)
    except UnknownUser:
        return
    assert 0 <= account.uid < COUNT
    assert account.gid in account.groups
    assert all(0 <= gid < COUNT for gid in account.groups)
    assert account.home
