"""The pytest plugin: hooks and the `sealed` fixtures. Whatever weighs is imported when a test first needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_sealed.plugin import options
from pytest_sealed.plugin.session import RUN, Run

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_sealed.sandbox import Sandbox

pytest_addoption = options.add


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        'sealed(name, **changes): change the container of this name for a test, class or module, for example '
        '@pytest.mark.sealed("db", memory="64M"); the changes are keywords of pytest_sealed.ContainerOptions',
    )
    run = config.stash[RUN] = Run(config)
    config.add_cleanup(run.close)   # also when the session never gets as far as its finish


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse a run that would do without what its suite requires: here once, for xdist workers too."""
    config = session.config
    options.unsupported(config)   # a wrong word is an error now, not in the first test that it is for
    options.publish(config)
    words = options.required(config)
    if words and not hasattr(config, "workerinput") and not options.starts_nothing(config):
        from pytest_sealed.plugin.requirements import check
        check(words, config.stash[RUN].store)


def pytest_report_header(config: pytest.Config) -> str:
    from pytest_sealed.plugin.summary import header
    return header(config.stash[RUN])


def pytest_itemcollected(item: pytest.Item) -> None:
    item.config.stash[RUN].collected(item)


@pytest.hookimpl(tryfirst=True)   # before xdist's, which tells the controller what there is to run
def pytest_collection_finish(session: pytest.Session) -> None:
    config, run = session.config, session.config.stash[RUN]
    run.selected(session.items)
    if options.starts_nothing(config) or not (options.frozen(config) or options.offline(config)):
        return
    from pytest_sealed.images.store import Store
    from pytest_sealed.plugin.frozen import refusal
    why = refusal(config, session.items, Store(run.store))
    if not why:
        return
    output: dict[str, Any] | None = getattr(config, "workeroutput", None)
    if output is None:
        raise pytest.UsageError(why)
    output["sealed_refused"] = why   # an error here would be told as an internal one: the controller raises it
    session.items.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[RUN].begin(item)
    if item.get_closest_marker("sealed") is not None:
        from pytest_sealed.plugin import markers
        markers.check(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    item.config.stash[RUN].ending()


@pytest.hookimpl(specname="pytest_runtest_makereport")
def pytest_sealed_trim(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Shorten the traceback before the report is made of it, and after pytest has got a unittest's, which it does within this hook."""
    if call.excinfo is not None:
        from pytest_sealed.plugin import report
        report.trim(call.excinfo, item.config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    made = yield
    if made.failed:   # also without an error: a test that passes against xfail(strict) has none
        from pytest_sealed.plugin import report
        if call.excinfo is not None and not call.excinfo.traceback:
            report.tidy(made)
        run = item.config.stash[RUN]
        report.extend(made, run.reported(item, call.when), run.diagnosis(call.excinfo.value) if call.excinfo is not None else "")
    return made


@pytest.hookimpl(trylast=True)   # after the runner's, which tears down what is left of wider scopes
def pytest_sessionfinish(session: pytest.Session) -> None:
    run = session.config.stash[RUN]
    run.close()
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["sealed"] = run.figures.pack()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add an xdist worker's figures to those of the controller, and end the run that it has refused.

    Raises:
        pytest.UsageError: see `frozen`.
    """
    output = getattr(node, "workeroutput", {})
    if "sealed" in output:
        node.config.stash[RUN].figures.add(output["sealed"])
    if "sealed_refused" in output:
        raise pytest.UsageError(output["sealed_refused"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    from pytest_sealed.plugin.summary import summarize
    summarize(terminalreporter, config.stash[RUN].figures)


@pytest.fixture
def sealed(request: pytest.FixtureRequest) -> Sandbox:
    """A sandbox for this test: run containers in it by hand. It is the one that the test's container fixtures are in."""
    return request.config.stash[RUN].sandbox(request.node)


@pytest.fixture(scope="module")
def sealed_module(request: pytest.FixtureRequest) -> Sandbox:
    """A sandbox for the tests of a module: the one that its module-scoped container fixtures are in."""
    return request.config.stash[RUN].sandbox(request.node)


@pytest.fixture(scope="session")
def sealed_session(request: pytest.FixtureRequest) -> Sandbox:
    """A sandbox for the whole run (one per xdist worker): the one that session-scoped container fixtures are in."""
    return request.config.stash[RUN].sandbox(request.node)
