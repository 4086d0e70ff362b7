# Two commands do: `make train` and `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TINY := .cache/tiny_sum
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUN_NAME ?= tiny_sum-$(shell date +%m%d-%H%M%S)
ARGS ?=
# Where there is no .venv (the GPU image, a machine without `make setup`) the Python that is there.
ANY_PYTHON = $(or $(wildcard $(BIN)/python),$(PYTHON))
BENCH ?= $(basename $(notdir $(wildcard benchmarks/*.py)))

# One thread a process: on few cores the trainer and the servers would otherwise fight for them.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup train test unit lint format types test-gpu prove-gpu chaos mutants bench clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## .venv with everything in it, the ar3po command included

$(STAMP): requirements/base.txt requirements/cpu.txt requirements/nodeps.txt requirements/launch.txt requirements/dev.txt requirements/test.txt requirements/wandb.txt requirements/mlflow.txt requirements/lock.txt setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 12) else f"Python {v.major}.{v.minor} found; the pinned Megatron-Core and torch need 3.10 or 3.11: make setup PYTHON=python3.11")'
	@echo "[setup 1/4] a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[setup 2/4] torch, Megatron-Core, NeMo-Run, test tools (2 to 4 minutes)"
	@$(PIP) -r requirements/cpu.txt -r requirements/launch.txt -r requirements/dev.txt --constraint requirements/lock.txt
	@echo "[setup 3/4] SGLang, without its CUDA dependencies"
	@$(PIP) --no-deps -r requirements/nodeps.txt
	@! $(BIN)/python -m pip show --quiet torchvision 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes torchvision
	@echo "[setup 4/4] megatron_ar3po itself"
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(TINY)/task.json: tools/make_tiny_model.py tools/tiny_sum_task.py | $(STAMP)
	$(BIN)/python tools/make_tiny_model.py --out $(TINY)

train: $(STAMP) $(TINY)/task.json  ## the main job: AR3PO on examples/tiny_sum, real SGLang, real Megatron
	$(BIN)/ar3po train examples/tiny_sum/config.yaml run.name=$(RUN_NAME) $(ARGS)

test: $(STAMP) $(TINY)/task.json lint types  ## every test, lint and types included
	$(BIN)/python -m pytest tests/unit tests/crosscheck tests/parallel tests/e2e tests/slurm -m "not chaos and not gpu" $(ARGS)

unit: $(STAMP)  ## the fast tests
	$(BIN)/python -m pytest tests/unit -m "not chaos and not gpu" $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP)
	$(BIN)/pyright

chaos: $(STAMP) $(TINY)/task.json  ## the long and the destructive tests
	$(BIN)/python -m pytest tests -m chaos $(ARGS)

mutants: $(STAMP)  ## break the code in known ways, one at a time: a test must notice each
	$(BIN)/python tools/run_mutants.py $(ARGS)

test-gpu:  ## what needs a GPU; in the image with its own Python
	$(ANY_PYTHON) -m pytest tests/gpu -m gpu $(ARGS)

prove-gpu:  ## what no test without a GPU can prove, on one: a table of checks in 25 minutes; needs no setup
	@$(ANY_PYTHON) tools/prove_gpu.py $(ARGS)

bench: $(STAMP) $(TINY)/task.json  ## every benchmark, as ratios in one run; BENCH="train_step publish" some of them
	@for name in $(BENCH); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

clean:  ## caches and runs, not the environment
	rm -rf runs .cache .pytest_cache .ruff_cache build ./*.egg-info
