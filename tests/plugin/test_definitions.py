"""What can be seen of container fixtures before any container starts."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_sealed import SpecError, container_fixture, image
from pytest_sealed.plugin.session import host_name


def test_fixtures_are_listed_with_their_place_and_text(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        from pytest_sealed import container_fixture, image, network_fixture

        box = container_fixture(image("busybox"))
        back = network_fixture()

        @container_fixture(scope="module")
        def web(box):
            "The shop's front."
            return image("busybox")
    """)
    result = pytester.runpytest("--fixtures")
    result.stdout.fnmatch_lines_random([
        "box -- conftest.py:[34]", "    A container of image 'busybox'.",
        "back -- conftest.py:[45]", "    A private network.",
        "web ?module scope? -- conftest.py:[67]", "    The shop's front.",
        "sealed -- *", "sealed_module ?module scope? -- *", "sealed_session ?session scope? -- *",
    ])


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--fixtures-per-test"])
def test_looking_starts_nothing(pytester: pytest.Pytester, option: str) -> None:
    pytester.makepyfile("""
        from pytest_sealed import container_fixture, image
        box = container_fixture(image("no-such-image"))
        def test_box(box): pass
        def test_by_hand(sealed): pass
    """)
    pytester.makeconftest("""
        from pytest_sealed.plugin.session import RUN
        def pytest_sessionfinish(session):
            print("ROOT", session.config.stash[RUN]._root)
    """)
    result = pytester.runpytest("-s", option)
    assert result.ret == 0
    assert "ROOT None" in result.stdout.str()


def test_a_session_without_containers_starts_nothing_and_imports_little(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys
        def test_nothing():
            assert "pytest_sealed.sandbox" not in sys.modules
            assert "pytest_sealed.spec" not in sys.modules
    """)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert "sealed:" not in result.stdout.str().partition("collected")[2]


ROOT = """
    from pytest_sealed.plugin.session import RUN
    def tell(config, when):
        print("ROOT", when, config.stash[RUN]._root and config.stash[RUN]._root._shared._warming)
    def pytest_collection_modifyitems(config): tell(config, "collected")
    def pytest_runtestloop(session): tell(session.config, "selected")
"""


def test_the_runtime_gets_ready_while_collection_goes_on(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(ROOT)
    pytester.makepyfile("""
        from pytest_sealed import container_fixture, image
        box = container_fixture(image("busybox"))
        def test_box(box): pass
    """)
    result = pytester.runpytest_subprocess("-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*ROOT collected <Thread(sealed-warm, *"])


def test_it_ends_if_no_test_that_needs_it_is_selected(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(ROOT)
    pytester.makepyfile("""
        from pytest_sealed import container_fixture, image
        box = container_fixture(image("busybox"))
        def test_box(box): pass
        def test_other(): pass
    """)
    result = pytester.runpytest_subprocess("-s", "-k", "other")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["*ROOT collected <Thread*", "*ROOT selected None"])


def test_a_fixture_can_not_be_called(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from pytest_sealed import container_fixture, image
        box = container_fixture(image("busybox"))
        def test_call(): box()
    """)
    pytester.runpytest().stdout.fnmatch_lines(["*Fixture*called directly*"])


def test_a_parameter_that_is_no_fixture_is_shown_at_the_definition(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from pytest_sealed import container_fixture, image

        @container_fixture
        def web(nonsense):
            return image("busybox")

        def test_web(web): pass
    """)
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["file *, line 3", "*def web(nonsense):*", "E       fixture 'nonsense' not found"])


def generator():  # type: ignore[no-untyped-def]
    yield image("busybox")


async def coroutine():  # type: ignore[no-untyped-def]
    return image("busybox")


@pytest.mark.parametrize("wrong", [generator, coroutine, "busybox", 7])
def test_what_can_describe_no_container_is_refused_with_an_example(wrong: object) -> None:
    with pytest.raises(SpecError) as caught:
        container_fixture(wrong)  # type: ignore[call-overload]
    assert caught.value.remedy


@pytest.mark.parametrize("options", [{"params": ["16M", "32M"]}, {"ids": ["small"]}])
def test_a_spec_has_no_parameters(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="was given a spec, which is the same for every parameter") as caught:
        container_fixture(image("busybox"), **options)
    assert "@container_fixture(params=" in caught.value.remedy


@pytest.mark.parametrize(("fixture", "name"), [("db", "db"), ("_db", "db"), ("my_db_", "my_db"), ("__", "container"), ("x" * 70, "x" * 63)])
def test_a_host_name_is_made_of_any_fixture_name(fixture: str, name: str) -> None:
    assert host_name(fixture) == name


def test_without_the_plugin_the_error_says_that_it_is_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from pytest_sealed import container_fixture, image
        box = container_fixture(image("busybox"))
        def test_box(box): pass
        def test_other(): pass
    """)
    result = pytester.runpytest_subprocess("-p", "no:sealed")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*pytest-sealed is off: remove `-p no:sealed`*"])
