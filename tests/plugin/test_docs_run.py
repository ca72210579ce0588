"""Every suite that the documentation shows runs, and passes."""

from __future__ import annotations

import pytest
from documents import projects

PROJECTS = projects()


def test_the_pages_have_suites() -> None:
    assert {"README.md", "docs/tutorial.md", "docs/how-to/limits.md"} <= set(PROJECTS)


@pytest.mark.parametrize("page", PROJECTS)
def test_the_suite_of_a_page_passes(pytester: pytest.Pytester, page: str) -> None:
    for name, text in PROJECTS[page].items():
        pytester.path.joinpath(name).write_text(text)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == 0, result.stdout.str()
    assert result.parseoutcomes().keys() == {"passed"}
