"""The `sealed` mark: what it refuses. What it changes is in test_fixtures.py."""

from __future__ import annotations

import pytest

CONFTEST = """
    from pytest_sealed import container_fixture, image
    db = container_fixture(image("busybox"))
    cache = container_fixture(image("busybox"))
    shared = container_fixture(image("busybox"), scope="module")
    all_of_it = container_fixture(image("busybox"), scope="session")
"""


def error_of(pytester: pytest.Pytester, test: str, *, prelude: str = "") -> str:
    """Run one test that must fail in its setup, before any container, and return what pytest prints."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(f"import pytest\n{prelude}\n{test}")
    result = pytester.runpytest("--strict-markers")
    result.assert_outcomes(errors=1)
    return result.stdout.str()


def test_it_is_registered(pytester: pytest.Pytester) -> None:
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.sealed(name, [*][*]changes): change the container*"])


def test_an_unknown_name_is_refused_with_the_nearest(pytester: pytest.Pytester) -> None:
    text = error_of(pytester, '@pytest.mark.sealed("bd", memory="64M")\ndef test(db, cache): pass')
    assert "SpecError: @pytest.mark.sealed('bd'): there is no container fixture of this name, did you mean 'db'?" in text
    assert "remedy: the containers of this test: cache, db" in text
    assert "pytest_sealed/plugin" not in text   # no frames of ours


def test_the_name_of_a_plain_fixture_is_refused(pytester: pytest.Pytester) -> None:
    text = error_of(pytester, '@pytest.mark.sealed("tmp_path", memory="64M")\ndef test(db, tmp_path): pass')
    assert "there is no container fixture of this name" in text


def test_a_container_that_the_test_does_not_ask_for_is_refused(pytester: pytest.Pytester) -> None:
    text = error_of(pytester, '@pytest.mark.sealed("db", memory="64M")\ndef test(cache): pass')
    assert "this test doesn't ask for 'db'" in text
    assert "give the test a parameter 'db'" in text


@pytest.mark.parametrize("wrong", ["", "7", '"db", "cache"', 'memory="64M"'])
def test_anything_but_one_name_is_refused(pytester: pytest.Pytester, wrong: str) -> None:
    text = error_of(pytester, f"@pytest.mark.sealed({wrong})\ndef test(db): pass")
    assert "takes the name of one container" in text
    assert '@pytest.mark.sealed("db", memory="64M")' in text


@pytest.mark.parametrize(("name", "scope"), [("shared", "module"), ("all_of_it", "session")])
def test_a_container_of_wider_scope_is_refused(pytester: pytest.Pytester, name: str, scope: str) -> None:
    text = error_of(pytester, f'@pytest.mark.sealed("{name}", memory="64M")\ndef test({name}): pass')
    assert f"that container has scope '{scope}'" in text


def test_an_unknown_keyword_is_refused_with_the_nearest(pytester: pytest.Pytester) -> None:
    text = error_of(pytester, '@pytest.mark.sealed("db", memry="64M")\ndef test(db): pass')
    assert "SpecError: there is no container option 'memry', did you mean 'memory'?" in text


def test_a_value_that_can_not_be_is_refused(pytester: pytest.Pytester) -> None:
    text = error_of(pytester, '@pytest.mark.sealed("db", memory="12Q")\ndef test(db): pass')
    assert "SpecError: memory='12Q' is no size" in text


def test_a_mark_may_name_what_is_asked_for_later(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("""
        import pytest
        @pytest.mark.sealed("db", memory="64M")
        def test(request): pass
    """)
    pytester.runpytest().assert_outcomes(passed=1)


def test_a_class_mark_may_name_what_only_some_of_its_tests_ask_for(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.sealed("cache", memory="64M")
        @pytest.mark.sealed("db", memory="64M")
        class TestShop:
            def test_without(self): pass
    """)
    pytester.runpytest().assert_outcomes(passed=1)


def test_a_class_mark_with_an_unknown_name_is_refused(pytester: pytest.Pytester) -> None:
    text = error_of(pytester, '@pytest.mark.sealed("bd", memory="64M")\nclass TestShop:\n    def test_db(self, db): pass')
    assert "did you mean 'db'?" in text
