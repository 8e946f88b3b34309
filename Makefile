# Everything runs inside one virtual environment, built once from pyproject.toml and constraints.txt.
#   make demo VENV=/some/where   uses another folder;   make venv PYTHON=python3.12   another interpreter.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
PEERS_VENV ?= .venv-peers

BIN := $(VENV)/bin
STAMP := $(VENV)/.perturbia-stamp
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Two OpenMP pools that spin on the same cores cost a multiple of the time; figures need no screen.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= agg

.PHONY: help venv demo test test-slow lint types format docs tutorials bench bench-peers-venv clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 20

venv: $(STAMP) ## Build the environment (once)

# uv where it is present. It does not read pip's configuration, so where it cannot resolve, pip has the last word.
$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/python ]; then \
		$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + ": set PYTHON=")'; \
		$(PYTHON) -m venv $(VENV); \
	fi
	@if command -v uv >/dev/null && uv pip install --python $(BIN)/python --torch-backend=auto -c constraints.txt -e . --group dev; then \
		echo "installed with uv"; \
	else \
		$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" && \
		echo "Installing into $(VENV): this takes a few minutes, once." && \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e . --group dev; \
	fi
	@touch $@

demo: venv ## A real CRISPR screen from registration to a judged model; writes perturbia-demo/report.html
	$(BIN)/python -m perturbia demo $(DEMO_ARGS)

test: venv ## Run the tests, without the slow ones
	$(PYTEST) -m "not slow and not gpu and not internet" $(TEST_ARGS)

test-slow: venv ## Run all tests, the slow ones too (nightly)
	$(PYTEST) -m "not gpu and not internet" $(TEST_ARGS)

lint: venv ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

types: venv ## Check types only
	$(BIN)/mypy

format: venv ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: venv ## Build the documentation; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

tutorials: venv ## Execute every notebook in place: the tutorials and those of the docs
	$(BIN)/python scripts/execute_tutorials.py

bench: venv ## Run the benchmarks, but for those that need public data
	@for script in $(filter-out benchmarks/published_protocols.py benchmarks/image_profiles.py,$(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; $(BIN)/python "$$script" $(BENCH_ARGS); done

bench-peers-venv: ## Build the environment of the tools that benchmarks compare with
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(PEERS_VENV)/bin/python -m pip install --quiet -r benchmarks/peers/requirements.txt -e .
	$(PEERS_VENV)/bin/python -c "import cell_eval, pertpy, perturbia"

clean: ## Remove what the other targets made, but not the environment
	rm -rf build dist perturbia-demo docs/_build docs/generated .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage coverage.xml
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
