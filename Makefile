# Crosstune in a few words. Needs only Python >= 3.11 and make; everything else goes into .venv.
# `make` lists the targets.

PYTHON  ?= python3
WORKERS ?= 2
TESTS   ?=
BENCH   ?=
VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH   := torch==2.13.0
# Oracles of Fisher matrices. Without their dependencies: they name torchvision, which they do not use here and whose
# wheels break a CPU build of torch.
ORACLES := curvlinops-for-pytorch backpack-for-pytorch kronfluence

# One thread per test process: two workers on two cores, and sums in one order.
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint format docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The two environments are stamps: rebuilt only when what they are made of has changed.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Crosstune needs Python 3.11 or newer; set PYTHON=...")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Crosstune into $(VENV) (a few minutes the first time) ..."
	@$(PIP) $(TORCH)
	@$(PIP) -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing the tools for tests and linting ..."
	@$(PIP) -e '.[dev]'
	@$(PIP) --no-deps $(ORACLES)
	@touch $@

quickstart: $(VENV)/installed ## install, run the main study on the embedded default, say where the report is
	@env -u OMP_NUM_THREADS $(BIN)/crosstune run conflict --config recipes/quickstart.yaml

test: $(VENV)/installed-dev ## every test a two-core CPU can run, in at most ten minutes
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(TESTS)

lint: $(VENV)/installed-dev ## ruff (rules and format), mypy --strict, the floors of the house
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict src
	@$(BIN)/lint-imports --no-logo

format: $(VENV)/installed-dev ## let ruff sort imports and format
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

docs: $(VENV)/installed-dev ## rewrite the generated parts of README and docs, then check them
	@$(BIN)/python docs/generate.py
	@$(BIN)/python -m pytest -q tests/house tests/docs

bench: $(VENV)/installed-dev ## costs and coverage as ratios, two minutes a script; BENCH=--whole measures all and writes the pages in docs/
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script $(BENCH) || exit 1; done

clean: ## forget the environment and every cache (runs/ is kept)
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
