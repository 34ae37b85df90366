# `make demo` and `make test` set up everything they need; `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV_VERSION := 0.13.8

# Seed of the chaos tests' kills and fuzzing: each log tells it, and with it a failure can be had again.
CHAOS_SEED ?= 1
# Rows of the demo's catalogue; the continuous integration takes fewer.
DEMO_LIMIT ?= 300

export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos lint format lock bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "galaxray needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv module is missing: on Debian, apt-get install python3-venv"; exit 2; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo "installing requirements.lock into $(VENV) (several GB: torch brings CUDA along)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: $(READY) ## annotate a few hundred galaxies of the synthetic sky, offline
	@$(BIN)/python pipelines/demo.py --limit $(DEMO_LIMIT)

test: $(READY) ## unit tests, two at a time, and tests on Ray
	$(BIN)/python -m pytest tests/unit -n 2 --dist loadfile
	$(BIN)/python -m pytest tests/ray tests/real -m "not slow"

chaos: $(READY) ## kill drivers, workers and nodes, break storage, fuzz readers; half an hour and more
	$(BIN)/python -m pytest tests/ray -m slow -v
	CHAOS_SEED=$(CHAOS_SEED) $(BIN)/python -m pytest tests/chaos -v -s

lint: $(READY) ## ruff, mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY) ## let ruff format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(READY) ## resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra onnx --group dev --universal \
		--no-header --no-annotate --python-version 3.11 --output-file requirements.lock

bench: $(READY) ## measure speed side by side with zoobot and img2dataset
	$(BIN)/python benchmarks/zoobot_inference.py
	$(BIN)/python benchmarks/download.py

clean: ## remove the demo's output and caches
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache .hypothesis build
