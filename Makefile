# make quickstart   from a fresh clone to a front, a report and a model
# make test         everything;  make fast  the tests that take under two minutes;  make check  style and types
PYTHON ?= python3
BIN := .venv/bin
OUT := out/quickstart
# one more process than cores, since tests of whole sweeps wait a good deal
PROCESSES := $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
SPREAD := --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: quickstart test fast check clean

quickstart: .venv/installed
	$(BIN)/lmpareto sweep study=quickstart
	$(BIN)/lmpareto report study=quickstart to=$(OUT)
	$(BIN)/lmpareto export study=quickstart to=$(OUT)/model

test: .venv/installed-dev
	$(BIN)/python -m pytest $(SPREAD)

fast: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow" $(SPREAD)

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv out

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@
