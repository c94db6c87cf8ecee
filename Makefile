# One entry point for people and CI. Needs Python 3.11+ with pip, make and git; everything else goes into .venv in this clone.
#   make demo | test | bench | soak | fuzz | lint | docs | coverage | mutation   (PYTHON=python3.12 picks an interpreter, PYTEST_ARGS adds to make test)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
FUZZ := $(VENV)/.installed-fuzz
PYTEST_ARGS ?=
MINUTES ?= 1
BOOTS ?= 20
FUZZ_ARGS ?=
MUTATION_ARGS ?=
# uv installs faster where it is at hand; pip does everywhere.
PIP_INSTALL := $(if $(shell command -v uv 2>/dev/null),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)

.DEFAULT_GOAL := help
.PHONY: help demo test bench soak fuzz coverage mutation lint docs clean

help: ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST))

# A stamp is newer than pyproject.toml when what it asks for is installed: $(RUN) to run gunyah, $(DEV) to work on it.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "gunyah needs Python 3.11 or later; $(PYTHON) is older. Name another one: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(RUN): pyproject.toml | $(VENV)/bin/python
	@$(PIP_INSTALL) --editable '.'
	@touch $@

$(DEV): pyproject.toml | $(VENV)/bin/python
	@$(PIP_INSTALL) --editable '.[dev,fuse]'
	@$(PIP_INSTALL) --editable '.[lint]' || echo "dtschema is not installed (its libfdt part needs a C compiler): gunyah lint uses its built-in rules only"
	@touch $@ $(RUN)

demo: $(RUN) ## Bring the whole system up once and show that it works.
	@$(BIN)/gunyah demo

test: $(DEV) ## Run all tests.
	@$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

bench: $(DEV) ## Measure; prints a table and writes bench/results.json.
	@$(BIN)/python -m bench

soak: VMS = 8
soak: MINUTES = 5
soak: $(DEV) ## BOOTS=20 boots of Debian's kernel in a row, VMS=8 of it at once, then 4 vCPUs under load for MINUTES=5.
	@$(BIN)/python -m tools.soak --boots $(BOOTS) --vms $(VMS) --minutes $(MINUTES)

$(FUZZ): $(DEV)
	@$(PIP_INSTALL) --editable '.[fuzz]' || echo "atheris is not installed: make fuzz does without runs that are led by coverage"
	@touch $@

fuzz: $(FUZZ) ## Hostile VMs against the hypervisor for MINUTES=1 minutes; failing runs are shrunk and kept in fuzz-corpus/.
	@$(BIN)/python -m tools.fuzz --minutes $(MINUTES) $(FUZZ_ARGS)

coverage: $(DEV) ## Run all tests and show which branches of the hypervisor they take; fails below 95 %.
	@rm -f .coverage .coverage.*
	@COVERAGE_CORE=ctrace $(BIN)/python -m coverage run -m pytest -n 2 $(PYTEST_ARGS); tests=$$?; \
	  $(BIN)/python -m coverage combine --quiet && $(BIN)/python -m tools.branches && exit $$tests

mutation: $(DEV) ## Change the ownership and capability modules in a copy, one mistake at a time; fails if the tests see less than 85 %.
	@$(BIN)/python -c 'import mutmut' 2>/dev/null || $(PIP_INSTALL) --editable '.[mutation]'
	@$(BIN)/python -m tools.mutation $(MUTATION_ARGS)

lint: $(DEV) ## Style (ruff) and types (mypy --strict).
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: $(DEV) ## Generate the reference pages from the tables.
	@$(BIN)/python -m tools.generate_docs

clean: ## Remove the private environment and all caches.
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site
