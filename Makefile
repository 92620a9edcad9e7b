# Everything runs in .venv, made by the first target that needs it. VENV=path uses another one.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PY := $(VENV)/bin/python
RUN := $(PY) -m lrm_lightning.train
# Where the tables find their runs, and of which data: data=... in ARGS says it too.
RUNS ?= runs
DATA ?= $(or $(patsubst data=%,%,$(filter data=%,$(ARGS))),$(if $(filter experiment=demo,$(ARGS)),digits,cifar10))
# Overrides of evaluate and transfer, as ARGS are those of train.
EVAL ?=
evaluate = $(PY) -m lrm_lightning.evaluate 'runs=[$(1)]' suite=$(2) $(EVAL)
REPORT := $(PY) -m lrm_lightning.report
comma := ,
# A sweep of sweeps/, and where its runs go; what belongs to no row of Table 1 goes to RUNS/sweeps.
sweep = $(RUN) --config-dir sweeps --config-name $(1) runs_dir=$(2) $(ARGS)
# Of Fig. 2 left; 0.75 is Table 1's row.
STRENGTHS := 0.0,0.01,0.1,0.25,0.5,0.9
# The paper's sources are trained independently of the targets: here with another seed, apart.
METHODS := regular label_smoothing pgd alp lrm
globs = $(subst $() ,$(comma),$(strip $(foreach method,$(METHODS),$(1)/$(DATA)/$(method)-*)))

.DEFAULT_GOAL := help
.PHONY: help install install-dev install-locked locks demo bench gpu-check audit report picture table1 table2 figures strong leaderboard reproduce dashboard test test-all lint format wheel clean

help:  ## This list
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9%_-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS="..." adds Hydra overrides, e.g. make sweep-smoothing ARGS="data=digits experiment=demo"'

# pip would compile ten thousand modules on one core, one after the other.
define pip_install
$(PY) -m pip install --disable-pip-version-check -q --no-compile -c constraints.txt $(1)
@$(PY) -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
endef

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	$(call pip_install,-e .)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.made pyproject.toml constraints.txt
	$(call pip_install,-e ".[dev]")
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dashboards: $(VENV)/.installed
	$(call pip_install,-e ".[dashboards]")
	@touch $@

# The last two without their requirements, which would put old packages over newer ones.
$(VENV)/.installed-bench: $(VENV)/.installed
	$(call pip_install,-e ".[bench]")
	$(PY) -m pip install --disable-pip-version-check -q --no-deps -c constraints.txt \
	  torchattacks cleverhans
	@touch $@

# Anew: pip asks no hash of what is there. What builds is in the locks too, as an environment of pip's
# own for building would be filled without hashes.
hashed = $(PY) -m pip install --disable-pip-version-check -q --no-build-isolation
TORCH ?= cpu
install-locked:  ## .venv anew, as install-dev, with every file's hash checked; TORCH=cuda: PyPI's torch for Linux
	$(PYTHON) -m venv --clear $(VENV)
	$(hashed) --require-hashes -r locks/build.txt
	$(hashed) --require-hashes -r locks/requirements.txt -r locks/torch-$(TORCH).txt
	$(hashed) --no-deps -e .
	@touch $(VENV)/.made $(VENV)/.installed $(VENV)/.installed-dev

# After a change of versions; locks/torch-cpu.txt is kept by hand, for its index is not PyPI.
compile = $(VENV)/uv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
  --no-annotate --custom-compile-command "make locks" -c constraints.txt
locks: $(VENV)/.made  ## The hashes in locks/ of what constraints.txt pins, asked of PyPI
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/python -m pip install --disable-pip-version-check -q uv
	printf 'editables\nsetuptools\n' | $(compile) - -o locks/build.txt
	echo torch | $(compile) - -o locks/torch-cuda.txt
	$(compile) --extra dev pyproject.toml -o locks/requirements.txt $$(sed -nE \
	  's/^(torch|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==.*/--no-emit-package \1/p' locks/torch-cuda.txt)

install: $(VENV)/.installed  ## Virtual environment with the package

install-dev: $(VENV)/.installed-dev  ## The same with what tests and lint need

demo: $(VENV)/.installed  ## ALP, PGD and LRM side by side on the embedded digits, minutes, no download
	$(RUN) -m method=alp,pgd,lrm experiment=demo runs_dir=$(RUNS)/demo $(ARGS)
	$(REPORT) runs_dir=$(RUNS)/demo out=report/demo
	@echo 'All three resist PGD, which plain training does not; their order is that of easy digits and a tiny network, not of the paper.'

# Three workers on two cores, as some tests wait. Without bytecode each process would compile the package.
tests = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -n 3 --dist worksteal
test: $(VENV)/.installed-dev  ## The tests without the slow ones, such as whole runs that are killed and resumed
	$(tests) -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-dev  ## Every test, as CI runs them
	$(tests) $(ARGS)

bench: $(VENV)/.installed-bench  ## Speed against other implementations; ARGS="--quick" or "training-step table-row"
	$(PY) -m benchmarks $(ARGS)

gpu-check: $(VENV)/.installed-dev  ## Does all of it work on this machine's GPU, and which engine is fastest?
	$(PY) -m benchmarks.gpu_check

# In an environment of their own, which what they look at shall not become a part of.
$(VENV)/audit/.installed: $(VENV)/.made
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --disable-pip-version-check -q pip-licenses pip-audit
	@touch $@

# pip-audit names what it could not ask about, and succeeds even if that is everything; PyPI has numpy.
audit: $(VENV)/.installed $(VENV)/audit/.installed  ## Licences of what is installed (none of the GPL's) and known weaknesses
	$(VENV)/audit/bin/pip-licenses --python $(PY) --order license --partial-match --fail-on "GPL;GNU"
	PIPAPI_PYTHON_LOCATION=$(abspath $(PY)) $(VENV)/audit/bin/pip-audit --progress-spinner off \
	  --output $(VENV)/audit/found; code=$$?; cat $(VENV)/audit/found; \
	  if grep -q '^numpy .*could not be audited' $(VENV)/audit/found; then \
	  echo 'error: nothing was audited: PyPI cannot be asked from here, not even about numpy'; exit 1; fi; exit $$code

lint: $(VENV)/.installed-dev  ## Format, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(PY)

format: $(VENV)/.installed-dev  ## Format and mend what lint can mend
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

sweep-%: sweeps/%.yaml $(VENV)/.installed  ## sweep-smoothing, sweep-squeezing, ...: a sweep of sweeps/
	$(call sweep,$*,$(RUNS))

report: $(VENV)/.installed  ## Tables, figures and one page in report/ from the records in runs/
	$(REPORT) runs_dir=$(RUNS) $(ARGS)

# What is trained and evaluated already is skipped. The report takes every record below RUNS, so any
# training counts that lies there, by whatever command it was made.
table1: $(VENV)/.installed  ## Train and evaluate what Table 1 still misses, then the report
	$(call sweep,table1,$(RUNS))
	$(call evaluate,$(RUNS)/$(DATA)/*,paper)
	$(REPORT) runs_dir=$(RUNS)

table2: $(VENV)/.installed  ## The same for Table 2: sources of another seed, and the matrix
	$(call sweep,table1,$(RUNS))
	$(call sweep,table1,$(RUNS)/sources) seed=1
	$(PY) -m lrm_lightning.transfer 'sources=[$(call globs,$(RUNS)/sources)]' \
	  'targets=[$(call globs,$(RUNS))]' out=$(RUNS)/$(DATA) $(EVAL)
	$(REPORT) runs_dir=$(RUNS)

figures: $(VENV)/.installed  ## The same for figures and section 4: smoothing, mixing, squeezing
	$(call sweep,table1,$(RUNS))
	$(call sweep,smoothing,$(RUNS)/sweeps) method.smoothing=$(STRENGTHS)
	$(call sweep,mixing,$(RUNS)/sweeps)
	$(call sweep,figure1,$(RUNS)/sweeps)
	$(call evaluate,$(RUNS)/$(DATA)/*$(comma)$(RUNS)/sweeps/$(DATA)/*,paper)
	$(REPORT) runs_dir=$(RUNS)

EXPERIMENT ?= short
reproduce: $(VENV)/.installed  ## The whole paper, which goes on after a stop; EXPERIMENT=short or paper
	@for stage in table1 figures table2 strong; do printf '\n== reproduce: %s\n' $$stage; \
	  $(MAKE) --no-print-directory $$stage ARGS='experiment=$(EXPERIMENT) $(ARGS)' || exit 1; done

# The sources are tried on every network too: one of the verdict's signs.
strong: $(VENV)/.installed  ## Strong attacks and verdicts on the rows of Table 1, then the report
	$(call evaluate,$(call globs,$(RUNS)),strong) 'sources=[$(call globs,$(RUNS)/sources)]'
	$(REPORT) runs_dir=$(RUNS)

# A folder of its own: in one table stands what was trained with one recipe.
leaderboard: $(VENV)/.installed  ## Every defence with one recipe: AutoAttack, and by how much PGD-20 flatters
	$(call sweep,leaderboard,$(RUNS)/leaderboard)
	$(call evaluate,$(RUNS)/leaderboard/$(DATA)/*,paper) suite.steps=20 'suite.table=[5,10,20]'
	$(call evaluate,$(RUNS)/leaderboard/$(DATA)/*,strong)
	$(REPORT) runs_dir=$(RUNS)/leaderboard out=report/leaderboard

picture: $(VENV)/.installed  ## The pictures of README and docs/, from the records in results/
	$(PY) docs/make_picture.py

dashboard: $(VENV)/.installed-dashboards  ## The W&B workspace of the runs, created from code
	$(PY) -m lrm_lightning.dashboard $(ARGS)

wheel: $(VENV)/.installed-dev  ## The package as a wheel in dist/
	$(PY) -m build --wheel --no-isolation

clean:  ## Remove what was built; runs, data and .venv stay
	rm -rf dist build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
