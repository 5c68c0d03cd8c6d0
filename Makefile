# Two commands: `make demo` runs the whole chain, `make test` the tests. Both set everything up themselves.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
TORCH := torch==2.13.0
export PREFECT_HOME := $(CURDIR)/.prefect
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_SERVER_DATABASE_TIMEOUT := 60
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where the environment forbids it, each of 25 stages would compile every module again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test browser lint bench ui deps lock recipe clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# One stamp for the environment: it is newer than every file that says what belongs in it.
.venv/.ready: requirements.txt requirements-data.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed; say which with PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q uv
	$(BIN)/pip install -q "$(TORCH)"
	VIRTUAL_ENV=.venv $(BIN)/uv pip install -q --compile-bytecode -r requirements.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install -q --compile-bytecode --no-deps -r requirements-data.txt
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

test: setup browser lint ## lint and all tests, the chain at a micro recipe included
	$(BIN)/python -m pytest tests

lint: setup ## ruff and the import contracts between the rooms
	$(BIN)/ruff check .
	$(BIN)/lint-imports

bench: setup ## speed against transformers and torch's optimisers, on an otherwise idle machine (about 12 minutes)
	$(BIN)/python -m benchmarks

ui: setup ## the Prefect and MLflow pages of this workspace, until Ctrl-C
	$(BIN)/python -m flows.pages

deps: setup ## rewrite the code dependencies in dvc.yaml from the stages' imports
	$(BIN)/python -m stages deps

lock: setup ## compile requirements.in to requirements.txt
	$(BIN)/uv pip compile -q requirements.in --python-version 3.11 --no-annotate --no-header -o requirements.txt

recipe: setup ## make recipes/NAME.yaml the active one: make recipe NAME=micro
	@test -n "$(NAME)" || { echo "say which one: make recipe NAME=$$(ls recipes | sed 's/.yaml//' | paste -sd '|')"; exit 1; }
	$(BIN)/python -m stages use $(NAME)

clean: ## remove outputs, run histories and scratch; keeps .venv and the DVC cache
	rm -rf data models plots report metrics work logs .prefect mlflow.db* mlartifacts dvc.lock sources/dvc.lock
