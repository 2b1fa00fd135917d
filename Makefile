# `make demo` shows the product, `make test` tests it, `make install` readies a server.
# All of it lives in .venv; nothing else on the machine is changed.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
PYTHON ?=
#: Where PyTorch comes from, if not from pip's own settings: the CPU builds, a mirror.
TORCH_INDEX ?=
#: make demo ONCE=1 ends after the run; its exit status says whether all was well.
ONCE ?=
ARGS ?=
KILLS ?= 2000
#: Tests side by side: most of their time is waiting for processes.
WORKERS ?= 3
STORMS ?= 500
LIVES ?= 5000
SEED ?= 1
#: Of the lives, each with a seed of its own, so that one that fails is repeated in minutes.
SHARDS ?= 20

PY := $(VENV)/bin/python
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) -m pip install -qq --no-input

.PHONY: help install test promise kills storms model guards demo demo-clean lint format bench lock messages clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.server $(VENV)/.examples  ## the server, the agent and the example, into .venv

demo: install  ## a server, an agent and a real training job on this machine (ONCE=1: then end)
	@$(PY) examples/demo.py $(if $(ONCE),--once) $(ARGS)

demo-clean:  ## throw the demo's data away (its server must be stopped)
	@if [ -x $(PY) ]; then $(PY) examples/demo.py --clean; else rm -rf demo; fi

test: $(VENV)/.dev $(VENV)/.examples $(VENV)/.frameworks  ## the test suite (ARGS="tests/agent -x")
	@$(PY) -m pytest -m "not promise" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

promise: $(VENV)/.dev $(VENV)/.examples  ## outages of a minute with real processes, side by side
	@$(PY) -m pytest tests/promise -n 6 --maxschedchunk 1 $(ARGS)

kills: $(VENV)/.dev  ## the kill matrix at length (KILLS=2000 ARGS="--seed 1 --minutes 90")
	@$(PY) -m tests.faults.matrix --kills $(KILLS) $(ARGS)

storms: $(VENV)/.dev  ## files of jobs in bad weather, at length (STORMS=500 ARGS="--seed 1 --minutes 90")
	@$(PY) -m tests.faults.storms --storms $(STORMS) $(ARGS)

model: $(VENV)/.dev  ## file sync as a state machine, 60 steps a life, by seeds side by side (LIVES=5000 SEED=1)
	@seq $(SEED) $$(($(SEED) + $(SHARDS) - 1)) | LAB_EXAMPLES=$$(($(LIVES) / $(SHARDS))) LAB_STEPS=60 \
		xargs -P $$(nproc) -I {} $(PY) -m pytest -q -s tests/sync/test_model.py --hypothesis-seed {} $(ARGS)

guards: $(VENV)/.dev  ## take each guard of file sync out: a test must fail
	@$(PY) -m tests.sync.guards $(ARGS)

lint: $(VENV)/.dev  ## what CI asks of the source
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: $(VENV)/.dev  ## put the source into its form
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: $(VENV)/.dev $(VENV)/.examples $(VENV)/.frameworks  ## the numbers to hold, measured here (minutes)
	@$(PY) -m bench $(ARGS)

messages: $(VENV)/.dev  ## compile the translations (needs gettext)
	@cd locale && for file in */LC_MESSAGES/*.po; do msgfmt --check -o "$${file%.po}.mo" "$$file"; done

clean:  ## remove .venv and what tests left
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache test-results

# --- installing: a stamp for each lock file that is in place ---------------------------------------

$(VENV)/.made: deploy/find-python.sh
	@python=$$(PYTHON="$(PYTHON)" deploy/find-python.sh); \
	if [ ! -x $(PY) ]; then echo "Making $(VENV) with $$python"; "$$python" -m venv $(VENV); fi
	@touch $@

$(VENV)/.server: $(VENV)/.made requirements/server.txt pyproject.toml
	@echo "Installing the server and the agent: about 500 MB in $(VENV)"
	@$(PIP) -r requirements/server.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.examples: $(VENV)/.made requirements/examples.txt requirements/torch.txt
	@echo "Installing what the example needs: about 1100 MB; with CUDA up to 6000 MB more"
	@$(PIP) -r requirements/examples.txt
	@$(PIP) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") -r requirements/torch.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.server requirements/dev.txt
	@echo "Installing what the tests need: about 300 MB"
	@$(PIP) -r requirements/dev.txt
	@touch $@

# Lightning and accelerate ask for PyTorch, and no resolver is to choose another than torch.txt's:
# the lock is whole but for it.
$(VENV)/.frameworks: $(VENV)/.dev $(VENV)/.examples requirements/frameworks.txt
	@echo "Installing the frameworks whose files the tests read: about 400 MB"
	@$(PIP) --no-deps -r requirements/frameworks.txt
	@touch $@

# --- the lock files: all versions and hashes, no index address; torch by version alone -------------

COMPILE = $(PY) -m uv pip compile --quiet --universal --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock"

lock: $(VENV)/.made  ## write requirements/*.txt anew from pyproject.toml
	@$(PIP) uv
	$(COMPILE) --python-version 3.10 pyproject.toml requirements/build.in -o requirements/agent.txt
	$(COMPILE) --python-version 3.11 pyproject.toml requirements/build.in --extra server \
		-o requirements/server.txt
	$(COMPILE) --python-version 3.11 requirements/examples.in -c requirements/server.txt \
		-o requirements/examples.txt
	$(COMPILE) --python-version 3.11 pyproject.toml requirements/build.in --extra server --extra dev \
		-c requirements/server.txt -c requirements/examples.txt -o requirements/dev.txt
	$(COMPILE) --python-version 3.11 requirements/frameworks.in \
		--override requirements/no-torch.in --no-emit-package torch \
		-c requirements/server.txt -c requirements/examples.txt -c requirements/dev.txt \
		-o requirements/frameworks.txt
