# One command for each thing. Every target sets up what it needs first: see .ci/setup.

.DEFAULT_GOAL := help
.PHONY: help demo test test-vm fuzz lint bench docs clean
unexport PYTHONDONTWRITEBYTECODE   # where it is set, as in many CI images, each of a suite's thousand processes would compile everything

PYTEST  := .venv/bin/python -m pytest
PYTEST8 := .venv-pytest8/bin/python -m pytest
SAME    := $(addprefix --ignore=tests/plugin/,test_docs_run.py test_leak_check.py)   # whatever pytest it is
SHOP    := cd docs/examples/shop && ../../../.venv/bin/python -m pytest

help:   ## this list
	@sed -n 's/^\([a-z-]*\): *## /  make \1\t/p' Makefile | expand -t 16

demo:   ## set up what is missing, then run the example: a web shop with its own Postgres and Redis for every test
	@.ci/setup demo
	$(SHOP) --verbose

test:   ## set up what is missing, then run the project's own tests, the plugin's under pytest 8 too, and the example
	@.ci/setup test
	$(PYTEST) -n 4 --dist worksteal
	$(PYTEST8) tests/plugin $(SAME)
	$(SHOP)

test-vm:   ## boot other kernels and accounts in virtual machines, and run the tests there
	@.ci/setup vm
	$(PYTEST) tests/vm

fuzz:   ## parsers of what strangers write, led by coverage, for SECONDS=3600 (needs a CPython that atheris has wheels for)
	@.ci/setup lint
	.venv/bin/python -m pip install --disable-pip-version-check --quiet --group fuzz
	nice -n 15 .venv/bin/python tests/fuzzing.py $(or $(SECONDS),3600)

lint:   ## style, types, import directions, documentation
	@.ci/setup lint
	@.ci/lint

bench:  ## measurements, side by side with bubblewrap, skopeo and, where they are installed, Podman and Docker
	@.ci/setup bench
	$(PYTEST) tests/bench -s

docs:   ## check every example and every link of the documentation
	@.ci/setup lint
	@.ci/lint docs

clean:  ## remove virtual environments and caches; the images stay (`sealed rm --all` removes those)
	rm -rf .venv .venv-pytest8 .mypy_cache .pytest_cache .ruff_cache .hypothesis .fuzz .import_linter_cache
