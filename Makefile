# Python 3.11 or newer and make are all a fresh machine needs; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INPUTS := pyproject.toml constraints.txt

.PHONY: demo test test-all slow check bench clean

demo: $(VENV)/.torch  ## a real network's outputs, calibrated; then two networks trained on images: tables and reports
	$(BIN)/softargmax demo
	$(BIN)/softargmax demo --images

test: $(VENV)/.dev  ## the suite, minutes on two cores
	$(BIN)/python -m pytest -n auto

test-all: $(VENV)/.all  ## with every array library; and what takes minutes: the wheel in an empty environment, the browser
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n auto
	$(BIN)/python -m pytest -m "minutes and not slow"
	CUDA_VISIBLE_DEVICES= $(BIN)/softargmax parity --peers

slow: $(VENV)/.all  ## campaigns run by hand
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.dev  ## lint, format, types, import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.all  ## speed against the peers, side by side; rewrites benchmarks/results.md, results.json, ratio.svg
	$(BIN)/python -m benchmarks

clean:  ## all that was made here
	rm -rf $(VENV) dist softargmax-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "softargmax needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# A stamp is written when the installation ends, so that an interrupted one is done again and a finished one is not.
$(VENV)/.app: $(INPUTS) | $(BIN)/python
	$(PIP) --editable ".[app]"
	touch $@

$(VENV)/.dev: $(INPUTS) | $(BIN)/python
	$(PIP) --editable ".[dev]"
	touch $@ $(VENV)/.app

# torch first and alone: where there is a CPU build, nothing may ask for another
$(VENV)/.torch: $(INPUTS) | $(BIN)/python
	$(PIP) torch
	$(PIP) --editable ".[torch]"
	touch $@ $(VENV)/.app

$(VENV)/.all: $(VENV)/.dev $(VENV)/.torch
	$(PIP) --editable ".[dev,torch,jax,tensorflow,keras,onnx]"
	touch $@
