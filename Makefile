# `make demo` and `make test` each work from a bare checkout: they want Python 3.11 or newer, g++,
# make and perl, and put everything else into $(VENV), once.

VENV ?= .venv
PY := $(VENV)/bin/python
# The first Python on the path that is new enough; `make PYTHON=/path/to/python` overrides.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
# Test processes side by side.
JOBS ?= 2

RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready

.DEFAULT_GOAL := help
.PHONY: help demo test slow fuzz attack mutants formal lint types docs-check clean compiled large-models

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What is built at its first use, built before: no test's time, and not several times over by
# processes that begin at once.
compiled: $(RUN_READY)
	@$(PY) -P -m systol_sim.precompile

# One after another, the larger first; smaller ones are built by the tests that need them.
large-models: $(DEV_READY)
	@$(PY) -P -m systol_sim.hardware.verilated.prebuild tpu-v1 edge32

demo: $(RUN_READY) compiled  ## compile a bundled model, run it on real images, read its counters
	$(VENV)/bin/systol demo

test: $(DEV_READY) compiled  ## every test that is not slow
	$(PY) -m pytest -m "not slow" -n $(JOBS)

slow: $(DEV_READY) compiled large-models  ## the slow tests: whole networks on the RTL, synthesis, the full test set
	$(PY) -m pytest -m slow -n $(JOBS) --dist loadfile

# A seed of its own for every run; a failure prints it. One of the past: make fuzz SEED=...
SEED ?= $(shell date +%s)
PROGRAMS ?= 400
fuzz: $(DEV_READY) compiled  ## fresh random programs on every executor, the RTL among them
	@echo "make fuzz SEED=$(SEED) PROGRAMS=$(PROGRAMS)"
	$(VENV)/bin/systol fuzz --programs $(PROGRAMS) --seed $(SEED) --machines some --backend rtl \
		--processes $(JOBS) --directory build/fuzz

# Mutants of each kind of file; what fails is kept. The whole campaign: make attack MUTANTS=15000
MUTANTS ?= 300
attack: $(DEV_READY) compiled  ## damaged and hostile files at every door
	@echo "make attack SEED=$(SEED) MUTANTS=$(MUTANTS)"
	$(PY) -P -m systol.attack --cases $(MUTANTS) --seed $(SEED) --keep build/attack

mutants: $(DEV_READY)  ## seed bugs mechanically; every one must be caught or explained
	@mkdir -p build
	$(PY) -m systol_sim.mutation.campaign --mutants 110 --seed 1 --processes $(JOBS) \
		--resume build/mutants.json

formal: $(DEV_READY)  ## prove queues, buffers, tokens, ports, arbitration and decoder; refute the mutants
	$(PY) -m systol_hw.formal --mutants

lint: $(DEV_READY)  ## style, import order, the arrows between the rooms, their sizes, no circle
	$(PY) -m ruff check
	$(VENV)/bin/lint-imports
	$(PY) tests/shared/rooms.py

types: $(DEV_READY)  ## strict type check
	$(PY) -m mypy

docs-check: $(DEV_READY)  ## generated pages are fresh
	$(PY) -m systol.docs_check

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find hw compiler sim runtime tests examples -name __pycache__ -type d -exec rm -rf {} +

$(PY):
	@test -n "$(PYTHON)" || { echo "Systol needs Python 3.11 or newer; none is on the path." \
		"Install one, or name it: make PYTHON=/path/to/python" >&2; exit 8; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) could not make a virtual" \
		"environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 8; }

# Editable installs: a changed source needs no reinstall, a changed pyproject.toml does.
$(RUN_READY): pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(DEV_READY): pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[rtl,synth,formal,plot,dev]'
	@touch $(RUN_READY) $@
