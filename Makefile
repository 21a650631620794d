# Two commands matter: `make demo` runs the comparison, `make test` checks everything.
# torch is pinned here only, so that pip never trades a working build for another one.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
CODE := graphnfn converters baselines experiments tests

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/graphnfn compare --output runs/demo

test: lint
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv runs/demo

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e '.[dev]'
	touch $@
