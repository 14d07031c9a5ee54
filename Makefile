# rnncc's chores. `make` alone lists them; every target but gpu sets up .venv first if it has to.

PYTHON  ?= python3
VENV    := .venv
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.installed
WORKERS ?= 2
TESTS   ?= tests
TENTH   ?=
# Neighbouring tests go to one worker, so that workers seldom wait for each other's builds.
PYTEST  := $(PY) -m pytest -n $(WORKERS) --dist worksteal
DAILY   := "not slow"

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# pip, quietly: on a terminal one line of progress; its messages only if it fails.
define INSTALL
$(PY) -m pip install -c constraints.txt $(1) 2>$(VENV)/pip.log | while read -r word what; do \
  case "$$word" in Collecting|Downloading|Installing) \
    if [ -t 1 ]; then printf '\r\033[K  %.76s' "$$word $$what"; fi;; esac; \
done || { cat $(VENV)/pip.log >&2; echo "venv: pip failed; see above" >&2; exit 1; }; \
if [ -t 1 ]; then printf '\r\033[K'; fi
endef

.DEFAULT_GOAL := help
.PHONY: help venv lint format test-unit test test-all fuzz coverage golden api docs demo bench \
        must-hold gpu wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## create .venv with the pinned dependencies and rnncc itself, editable
	@:

$(STAMP): pyproject.toml constraints.txt
	@echo "venv: $(VENV), with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "venv: '$(PYTHON) -m venv' failed. Fix: install it (Debian: apt install python3-venv)," \
	       "or name another Python >= 3.10: make PYTHON=..."; exit 1; }
	@echo "venv: installing the pinned packages (a minute or two the first time)"
	@$(call INSTALL,hatchling editables)
	@$(call INSTALL,--no-build-isolation -e '.[dev]')
	@touch $@
	@echo "venv: ready"

lint: $(STAMP)  ## ruff check, ruff format --check, mypy
	@echo "lint: ruff check"; $(VENV)/bin/ruff check
	@echo "lint: ruff format"; $(VENV)/bin/ruff format --check
	@echo "lint: mypy"; $(VENV)/bin/mypy

format: $(STAMP)  ## fix what ruff can fix
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

test-unit: $(STAMP)  ## the tests that build no kernel: under a minute
	@$(PYTEST) -m $(DAILY) tests/unit

test: $(STAMP)  ## the daily tests (TESTS=tests/kernels/test_x.py for some, WORKERS=n)
	@$(PYTEST) $(if $(TENTH),--tenth=$(TENTH),-m $(DAILY)) $(TESTS)

test-all: $(STAMP)  ## the daily and the slow tests: before a release
	@$(PYTEST) $(TESTS)

# SEED, JOBS and CELLS as they are given; CASE=17 repeats one case of a seed.
fuzz: $(STAMP)  ## random cells against a plain loop, SECONDS=600 (SEED=, JOBS=, CELLS=, CASE=)
	@$(PY) tools/fuzz.py --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED)) \
	  $(if $(JOBS),--jobs $(JOBS)) $(if $(CELLS),--cells $(CELLS)) $(if $(CASE),--case $(CASE)) $(ARGS)

coverage: $(STAMP)  ## the lines of rnncc that the daily tests run; the figure goes to CONTRIBUTING.md
	@$(PYTEST) -m $(DAILY) --cov --cov-report= $(TESTS)
	@$(PY) -m coverage report --skip-covered --sort=cover
	@total=$$($(PY) -m coverage report --format=total); \
	sed -E "s/[0-9]+ % of rnncc's lines/$$total % of rnncc's lines/" CONTRIBUTING.md > .coverage.md; \
	mv .coverage.md CONTRIBUTING.md; \
	echo "coverage: $$total % of rnncc's lines"

golden: $(STAMP)  ## rewrite generated/ from cells/ and templates/
	@$(PY) -m tests.support.golden --update

api: $(STAMP)  ## rewrite the public API, tests/unit/api.txt
	@$(PY) -m tests.support.api --update

demo: $(STAMP)  ## compile a cell and train a small language model on it
	@$(PY) examples/train_bytes.py

docs: $(STAMP)  ## write docs/cells.md from cells/ and docs/cells.json
	@$(PY) tools/catalogue.py

bench: $(STAMP)  ## time a cell's kernels against its baselines on this machine (CELL=NAME or a file)
	@[ -n "$(CELL)" ] || { echo "bench: which cell? Fix: make bench CELL=NAME"; exit 2; }
	@$(PY) -m rnncc bench $(CELL)

must-hold: $(STAMP)  ## measure the speed on a CPU that must hold, about five minutes (ONLY="copy step")
	@$(PY) tools/must_hold.py $(ONLY)

# On a bare machine whose Python has torch and CuPy, that Python: nothing is installed.
gpu:  ## all that needs a GPU, in nine minutes (ARGS="--out DIR", --help); by .venv, or by PYTHON
	@$(if $(wildcard $(STAMP)),$(PY),$(PYTHON)) tools/gpu_campaign.py $(ARGS)

wheel: $(STAMP)  ## build the wheel and the sdist into dist/
	@$(PY) -m hatchling build -d dist

clean:  ## remove .venv, builds and caches
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
