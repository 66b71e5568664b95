# Works on a fresh machine with python3 (3.11 to 3.13, with its venv module) and make.
# Of several the quickest is taken; PYTHON=/path/to/python3 names another.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST ?= tests

SEED ?= 1
MINUTES ?= 60
NODES ?= 3
FAULTS ?= everything
SEEDS ?= 0..

.PHONY: help demo test check fix sim campaign bench lab spec clean

help:
	@echo 'make demo    five nodes, 20,000 signed transactions, a killed primary: watch it go on'
	@echo 'make test    every test, real processes included (TEST=tests/unit/cli picks some)'
	@echo 'make check   formatting, lint, types and the rules of the source tree'
	@echo 'make fix     format, and repair what the linter can repair'
	@echo 'make sim     one seed of the simulator: SEED=17 NODES=3 FAULTS=everything (draws sim-SEED.html)'
	@echo 'make campaign  seeds of the simulator for so many minutes: MINUTES=60 SEEDS=0.. NODES=3'
	@echo 'make bench   key figures on this machine, appended to bench/history.ndjson'
	@echo 'make lab     every experiment, small, and its report: twenty minutes on two free cores'
	@echo 'make spec    the Quint specification: types, named traces, a short random slice (needs npm)'
	@echo 'make clean   remove the virtual environment and caches'

NATIVE := setup.py $(wildcard src/tepbft/native/*.[ch])

$(READY): pyproject.toml $(NATIVE)
	@test -x $(BIN)/python || tools/venv.sh $(VENV) $(PYTHON)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/tepbft demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadgroup $(TEST)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_tidy.py

fix: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

sim: $(READY)
	@$(BIN)/tepbft sim --nodes $(NODES) --faults $(FAULTS) --seed $(SEED) --trace sim-$(SEED).jsonl; \
		code=$$?; $(BIN)/tepbft sim show sim-$(SEED).jsonl -o sim-$(SEED).html && exit $$code

spec:
	spec/run.sh

bench: $(READY)
	$(BIN)/tepbft lab history --add

lab: $(READY)
	$(BIN)/tepbft lab run all --quick; code=$$?; $(BIN)/tepbft lab report && exit $$code

campaign: $(READY)
	$(BIN)/tepbft sim --nodes $(NODES) --faults $(FAULTS) --seeds $(SEEDS) --minutes $(MINUTES)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist src/*.egg-info
