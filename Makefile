# The front door. `make demo` and `make test` install what they need into .venv on first use.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2

.PHONY: help install demo test lint types unit chaos bench clean
help:            ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(STAMP)   ## create .venv and install the project with its development tools
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)      ## a real sweep on digits, from sweep file to registered model
	$(BIN)/python examples/demo.py

test: lint types unit  ## lint, type-check, run the suite

lint: $(STAMP)      ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH=$(BIN):$$PATH lint-imports

types: $(STAMP)     ## mypy, strict
	$(BIN)/mypy

unit: $(STAMP)      ## the test suite, two files at a time (JOBS=0: one after the other)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 60 --durations-min 2

chaos: $(STAMP)     ## the long forms: twenty kills and outages at random moments, eight trials over two nodes
	PAS_CHAOS_FAULTS=20 $(BIN)/python -m pytest -s tests/orchestrator/test_chaos_end_to_end.py tests/orchestrator/test_cluster_end_to_end.py tests/orchestrator/test_jobs_end_to_end.py

bench: demo         ## every benchmark, one after the other; hours, and CIFAR-10 as files in data/cifar10
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:           ## remove the virtual environment and caches (never .pas, which holds results)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
