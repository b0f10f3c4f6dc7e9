# The workshop's commands; CONTRIBUTING.md says when to use which.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

unexport PYTHONDONTWRITEBYTECODE  # what is imported is compiled once, not in every process that a test starts

.PHONY: quickstart setup check test soak docs bench clean

quickstart: .venv/quickstart.ok
	$(BIN)/rankwright quickstart

setup: .venv/dev.ok

check: .venv/dev.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: .venv/dev.ok
	$(BIN)/pytest -n 2 --dist worksteal -m "not soak"

soak: .venv/dev.ok
	$(BIN)/pytest -m soak --timeout 1800

docs: .venv/docs.ok
	$(BIN)/mkdocs build --strict

bench: .venv/dev.ok
	$(BIN)/python -m benchmarks short

.venv/quickstart.ok: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -c constraints.txt torch
	$(PIP) -c constraints.txt -e '.[quickstart]'
	@touch $@

.venv/dev.ok: .venv/quickstart.ok
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

.venv/docs.ok: .venv/dev.ok
	$(PIP) -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf .venv build dist site src/*.egg-info .pytest_cache .ruff_cache .hypothesis
