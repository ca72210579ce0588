"""Values of secrets are in no text, no error and no pickle."""

from __future__ import annotations

import copy
import json
import os
import pickle
from typing import Any

import pytest

from pytest_sealed import SpecError, image
from pytest_sealed.secret import MOST, Secret, open_secrets

VALUE = "hush-hush"


def refusal(secrets: Any, **options: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        image("busybox", secrets=secrets, **options)
    assert caught.value.remedy
    assert VALUE not in str(caught.value)
    return caught.value


def test_text_is_utf_8_and_bytes_stay_as_they_are() -> None:
    rows = dict(image("busybox", secrets={"b": "é", "a": b"\0\xff", "empty": ""}).secrets)
    assert {name: secret.reveal() for name, secret in rows.items()} == {"a": b"\0\xff", "b": b"\xc3\xa9", "empty": b""}
    assert list(rows) == sorted(rows)


def test_a_spec_shows_the_names_and_no_values() -> None:
    spec = image("busybox", secrets={"db_password": VALUE})
    for text in (repr(spec), str(spec), f"{spec.secrets}", repr(spec.replace(name="db"))):
        assert "('db_password', <secret>)" in text
        assert VALUE not in text


def test_specs_are_equal_if_their_secrets_are() -> None:
    one, same, other = (image("busybox", secrets={"x": value}) for value in (VALUE, VALUE.encode(), "other"))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert copy.deepcopy(one.secrets) == one.secrets
    assert Secret(b"x") != b"x"


def test_a_pickle_leaves_the_values_behind_and_says_so_where_they_are_missed() -> None:
    spec = image("busybox", secrets={"db_password": VALUE})
    for thing in (spec, SpecError(f"no {spec}"), [spec.secrets]):
        assert VALUE.encode() not in pickle.dumps(thing)
    with pytest.raises(SpecError) as caught:
        open_secrets(pickle.loads(pickle.dumps(spec)).secrets)   # noqa: S301
    assert caught.value.message == "the values of this spec's secrets were left behind when it was pickled"
    assert caught.value.remedy == "make the spec in the process that runs it"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0b", "x" * 256, "\ud800"])
def test_a_name_is_one_of_a_file(name: str) -> None:
    assert refusal({name: VALUE}).message == f"secrets: {name[:80]!r} can't be the name of a file"


@pytest.mark.parametrize("name", ["a", "-x", "db.password", "…", "with blank", "x" * 255, "..."])
def test_anything_else_is(name: str) -> None:
    assert image("busybox", secrets={name: VALUE}).secrets[0][0] == name


@pytest.mark.parametrize(("secrets", "message"), [
    (VALUE, "secrets is no mapping but of type str"),
    ([VALUE], "secrets is no mapping but of type list"),
    (None, "secrets is no mapping but of type NoneType"),
    ({5: VALUE}, "secrets: a name is no text but of type int"),
    ({"x": [VALUE]}, "secrets: 'x' is neither text nor bytes but of type list"),
    ({"x": None}, "secrets: 'x' is neither text nor bytes but of type NoneType"),
    ({"x": f"{VALUE}\ud800"}, "secrets: 'x' is text that has no UTF-8"),
    ({"x": b"x" * MOST, "y": b"y"}, "secrets have more than the 1 MiB that they may have together"),
])
def test_what_can_be_none_is_refused_without_being_shown(secrets: Any, message: str) -> None:
    assert refusal(secrets).message == message


def test_as_much_as_there_may_be_is_taken() -> None:
    assert len(image("busybox", secrets={"x": b"x" * MOST}).secrets) == 1


@pytest.mark.parametrize("options", [{"tmpfs": ["/run/secrets"]}, {"tmpfs": ["/run/secrets/deep"]}])
def test_nothing_else_is_mounted_there(options: dict[str, Any]) -> None:
    found = refusal({"x": VALUE}, **options)
    assert found.message == f"a mount at {options['tmpfs'][0]!r} and secrets=, which are the files of /run/secrets"
    assert found.remedy == "mount it elsewhere"
    with pytest.raises(SpecError, match="a mount at '/run/secrets"):
        image("busybox", **options).replace(secrets={"x": VALUE})
    image("busybox", **options).replace(tmpfs=["/run", "/run/secrets.d"], secrets={"x": VALUE})
    image("busybox", **options, secrets={})


def test_the_memory_file_holds_them_all() -> None:
    fd = open_secrets(image("busybox", secrets={"a": "x", "b": b"\0"}).secrets)
    try:
        assert json.loads(os.pread(fd, 1000, 0)) == {"a": "78", "b": "00"}
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
