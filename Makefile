# Everything runs in .venv, made by the first target that needs it. VENV=path uses another one.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PY := $(VENV)/bin/python
RUN := $(PY) -m lrm_lightning.train

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test lint format wheel clean

help:  ## This list
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9%_-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS="..." adds Hydra overrides, e.g. make sweep-smoothing ARGS="data=digits experiment=demo"'

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	$(PY) -m pip install --disable-pip-version-check -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.made pyproject.toml constraints.txt
	$(PY) -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed  ## Virtual environment with the package

install-dev: $(VENV)/.installed-dev  ## The same with what tests and lint need

demo: $(VENV)/.installed  ## ALP, PGD and LRM side by side on the embedded digits, minutes, no download
	$(RUN) -m method=alp,pgd,lrm experiment=demo $(ARGS)

test: $(VENV)/.installed-dev  ## Every test
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev  ## Format, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

format: $(VENV)/.installed-dev  ## Format and mend what lint can mend
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

sweep-%: sweeps/%.yaml $(VENV)/.installed  ## sweep-smoothing, sweep-squeezing, ...: a sweep of sweeps/
	$(RUN) --config-dir sweeps --config-name $* $(ARGS)

wheel: $(VENV)/.installed-dev  ## The package as a wheel in dist/
	$(PY) -m build --wheel --no-isolation

clean:  ## Remove what was built; runs, data and .venv stay
	rm -rf dist build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
