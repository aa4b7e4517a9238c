# Needs Python 3.11 or newer and make; everything else is installed into .venv.
# Everything that is written lies inside this folder, whose path may contain spaces.

PYTHON ?= python3
CORES ?= all
CONDRAND_DATA ?= ../shared/data

# A relative path has no spaces, and `python -m` needs no script whose #! line would.
PY := .venv/bin/python
CACHE := $(CURDIR)/.cache
PEERS := .cache/peers

# pip and uv read the user's own settings (mirrors, certificates) there; everything else writes.
ifeq ($(origin CONDRAND_USER_CONFIG), undefined)
CONDRAND_USER_CONFIG := $(if $(XDG_CONFIG_HOME),$(XDG_CONFIG_HOME),$(HOME)/.config)
endif
FOR_PIP = XDG_CONFIG_HOME="$(CONDRAND_USER_CONFIG)"

export CONDRAND_DATA
export CONDRAND_CACHE := $(CACHE)/condrand
export MPLCONFIGDIR := $(CACHE)/matplotlib
export PIP_CACHE_DIR := $(CACHE)/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# pip asks rustc, where there is one, for its version, and rustup would make a folder in HOME.
export RUSTUP_HOME := $(CACHE)/rustup
export TMPDIR := $(CACHE)/tmp
export CONDRAND_USER_CONFIG
export XDG_CACHE_HOME := $(CACHE)/xdg/cache
export XDG_CONFIG_HOME := $(CACHE)/xdg/config
export XDG_DATA_HOME := $(CACHE)/xdg/data

# Bytecode makes each start three times faster.
unexport PYTHONDONTWRITEBYTECODE
# Packages of loaded modules must not shadow the pinned ones.
unexport PYTHONPATH PYTHONHOME
# A personal default profile (say, for a cluster) must not change the demo.
unexport SNAKEMAKE_PROFILE

# A venv whose interpreter has gone (uninstalled, or copied from elsewhere) is made again.
REMAKE := $(if $(wildcard $(PY)),,FORCE)

CONFIG_OF_RUN = $(if $(CONFIG),$(CONFIG),config/examples/$(EXAMPLE).yaml)
REPORT_OF_RUN = $(if $(CONFIG),results/report.html,results/$(EXAMPLE)/report.html)
# A cluster profile says itself how much runs at a time.
LAUNCH = $(PY) scripts/launch.py --by-make $(if $(PROFILE),--profile "$(PROFILE)",--cores "$(CORES)")

.DELETE_ON_ERROR:
.PHONY: help env demo run plan run-arguments test test-slow test-cluster benchmark benchmark-dex benchmark-linear benchmark-kompot benchmark-tails benchmark-jobs benchmark-out-of-core peers lint lock clean folders python FORCE

help: ## Print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo
	@echo "  PYTHON=$(PYTHON)  interpreter that makes .venv"
	@echo "  CORES=$(CORES)  cores of demo and run"
	@echo "  PROFILE=  Snakemake profile instead of profiles/default (say, profiles/slurm)"
	@echo "  JOB=  files of run to make, instead of everything that is missing"
	@echo "  MINUTES=30 THREADS=  of a shard job, for plan"
	@echo "  CONDRAND_DATA=$(CONDRAND_DATA)  folder of the examples' input files"

env: .venv/.stamp | folders ## Make .venv from envs/requirements.lock (once)

demo: env ## Run config/config.yaml on a simulated screen and make its report
	@$(LAUNCH) --config config/config.yaml --report results/demo/report.html

run: run-arguments env ## Run EXAMPLE=name (config/examples) or CONFIG=path, and make the report
	@$(LAUNCH) --config "$(CONFIG_OF_RUN)" $(if $(JOB),--job $(JOB),--report "$(REPORT_OF_RUN)")

plan: run-arguments env ## Propose how to split CONFIG or EXAMPLE over jobs, from the head of its screens
	@$(PY) scripts/launch.py --config "$(CONFIG_OF_RUN)" --plan \
		$(if $(MINUTES),--minutes "$(MINUTES)") $(if $(THREADS),--threads "$(THREADS)")

# Exit code 2 is make's own for a failed recipe.
run-arguments:
	@if [ -f "$(CONFIG_OF_RUN)" ]; then exit 0; fi; \
	if [ -n "$(CONFIG)" ]; then echo "There is no file $(CONFIG)." >&2; exit 2; fi; \
	if [ -n "$(EXAMPLE)" ]; then echo "There is no example '$(EXAMPLE)'." >&2; fi; \
	echo "Say which: make run EXAMPLE=name, or make run CONFIG=path. Examples:" >&2; \
	for file in config/examples/*.yaml; do \
		[ -f "$$file" ] && basename "$$file" .yaml | sed 's/^/  /' >&2; \
	done; \
	exit 2

test: env ## Run the tests (not those marked slow)
	@$(PY) -m pytest

test-slow: env ## Run the tests marked slow
	@$(PY) -m pytest -m "slow and not cluster"

test-cluster: env ## Run the tests on a private SLURM (root on Debian, else they skip); QUICK=1 for most
	@$(PY) -m pytest -m "cluster$(if $(QUICK), and not slow)" tests/cluster

benchmark: env ## Time the crt engine against the plain recipe, on one simulated file
	@$(PY) tests/benchmarks/crt.py

benchmark-dex: env peers ## Time the dex engine against illico, pdex and scanpy, on the same files
	@$(PY) tests/benchmarks/dex.py

benchmark-linear: env peers ## Time limma and anova against limma in R, pylimma, scipy and statsmodels
	@$(PY) tests/benchmarks/linear.py

benchmark-kompot: env peers ## Time expression and abundance over cell states against kompot
	@$(PY) tests/benchmarks/kompot.py

benchmark-tails: env ## How right small p values are, by method, and their cost (an hour)
	@$(PY) tests/benchmarks/tails.py accuracy null power cost

benchmark-jobs: env ## Run 500 shard jobs through a private SLURM, some killed; then 50 (root on Debian)
	@$(PY) tests/benchmarks/shard_jobs.py

benchmark-out-of-core: env ## Run the dex engine on a screen larger than its jobs' memory
	@$(PY) tests/benchmarks/dex_out_of_core.py

lint: env ## Check style: ruff, snakefmt, snakemake --lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m snakefmt --check Snakefile workflow
	$(PY) -m snakemake --lint

# Not by way of env: a broken lock must not keep one from making a new one.
lock: $(PY) | folders ## Derive envs/condrand.yaml and envs/requirements.lock from pyproject.toml
	@$(FOR_PIP) $(PY) envs/derive.py

clean: ## Remove .venv and caches, never results
	rm -rf .venv .cache
	find . -path ./results -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

folders:
	@mkdir -p "$(TMPDIR)" "$(MPLCONFIGDIR)" "$(XDG_CACHE_HOME)" "$(XDG_CONFIG_HOME)" "$(XDG_DATA_HOME)"

# An environment of their own, made anew when the list of what belongs into it changes. pip of
# Python 3.11 cannot read a dependency group.
peers: env
	@mkdir -p $(PEERS)
	@$(PY) tests/benchmarks/dex.py --peers-wanted > $(PEERS)/wanted.txt
	@if ! cmp -s $(PEERS)/wanted.txt $(PEERS)/installed.txt || [ ! -x $(PEERS)/venv/bin/python ]; then \
		echo "Making the peers' environment (a minute or two, once)"; \
		rm -f $(PEERS)/installed.txt; \
		$(PY) -m venv --clear $(PEERS)/venv && \
		$(FOR_PIP) $(PEERS)/venv/bin/python -m pip install --quiet --no-compile -r $(PEERS)/wanted.txt && \
		{ $(PEERS)/venv/bin/python -m compileall -qq -j 0 $(PEERS)/venv/lib || true; } && \
		mv $(PEERS)/wanted.txt $(PEERS)/installed.txt; \
	fi

# Called by the recipes that need it, not named as their prerequisite: a .venv that is there works
# without the interpreter's usual name.
python:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
		echo "There is no $(PYTHON). Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1), but 3.11 or newer is needed. Name another: make PYTHON=python3.11" >&2; \
		exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make a venv: its modules venv and ensurepip are missing (Debian, Ubuntu: apt install python3-venv)." >&2; \
		exit 1; }

# The stamp comes last, so an interrupted creation starts anew, from an empty folder; so does a
# changed lock, which also takes away what it no longer names.
.venv/.stamp: envs/requirements.lock $(REMAKE) | folders
	@$(MAKE) --no-print-directory python
	@echo "Making .venv (a minute or two, once)"
	@"$(PYTHON)" -m venv --clear .venv
	@$(FOR_PIP) $(PY) -m pip install --quiet --require-hashes --no-compile -r envs/requirements.lock
	@# In parallel. Fails on templates that are no valid Python, which nobody imports.
	@$(PY) -m compileall -qq -j 0 .venv/lib || true
	@touch .venv/.stamp

$(PY): | folders
	@$(MAKE) --no-print-directory python
	@"$(PYTHON)" -m venv .venv
