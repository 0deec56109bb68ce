# `make demo`, `make test`, `make lint`: each sets up .venv from envs/lock.txt first.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help demo test test-fast test-slurm docs lint format clean clean-venv lock rulegraph pictures

PYTHON ?= python3
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) --rerun-incomplete
# A process of tests for each core, of one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(CORES)
# Packages that `make docs` installs beside the lock.
DOCS_TOOLS := $(shell sed -n 's/==.*//p' envs/docs.txt)
# Data sets that its tutorials read.
TUTORIAL_CELLS := pbmc_smoke pbmc3k bremsc cite_smoke papalexi_smoke kang

help:  ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(READY): envs/lock.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), f"Python 3.11 to 3.13 is needed, not {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet --requirement envs/lock.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: $(READY)  ## the whole graph on the embedded cells; ends with the main table and the report's place
	$(SNAKEMAKE) --quiet rules
	@cat results/benchmark/scores.txt
	@echo "The report: $(CURDIR)/results/report/summary.html"

test: $(READY)  ## all tests
	$(PYTEST)

test-fast: $(READY)  ## the tests that take seconds
	$(PYTEST) -m "not slow"

test-slurm: $(READY)  ## the smoke graph, and faults, on a Slurm that it installs (Debian 12, as root)
	SCGPT_TEST_SLURM=1 $(BIN)/python -m pytest -m slurm tests/slurm

lint: $(READY)  ## ruff, mypy, snakefmt, snakemake --lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

format: $(READY)  ## rewrite the code in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile rules

bench-mapping: $(READY)  ## label transfer, by the demo's model (made first) or by MODEL=FOLDER
	$(if $(MODEL),,$(SNAKEMAKE) --quiet rules -- results/models/demo/model.safetensors)
	$(BIN)/python -m benchmarks.bench_mapping

bench-%: $(READY)  ## figures of speed into results/bench/: bench-embed, bench-collate, ...
	$(BIN)/python -m benchmarks.bench_$(subst -,_,$*)

$(VENV)/.docs: $(READY) envs/docs.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet --no-deps --requirement envs/docs.txt
	touch $@

docs: $(VENV)/.docs  ## the documentation, its tutorials executed; without network, and without a warning
	$(SNAKEMAKE) --quiet rules --configfile tests/smoke/config.yaml docs/tutorials.yaml --directory docs/_build/run -- \
		results/models/smoke/model.safetensors $(TUTORIAL_CELLS:%=results/datasets/%.h5ad)
	$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet --jobs $(CORES) docs docs/_build/html
	@echo "The documentation: $(CURDIR)/docs/_build/html/index.html"

rulegraph: $(READY)  ## draw the graph of rules (needs graphviz)
	$(BIN)/snakemake --rulegraph | dot -Tsvg > docs/rulegraph.svg

pictures: $(READY)  ## take the README's pictures out of the report of `make demo`
	$(BIN)/python docs/take_pictures.py results/report/integration.ipynb docs

lock: $(READY)  ## write envs/lock.txt and envs/pipeline.yaml anew from what is installed
	(sed -n '/^#/p' envs/lock.txt; $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip $(DOCS_TOOLS:%=--exclude %) | sed 's/+.*//') > envs/lock.new
	mv envs/lock.new envs/lock.txt
	(sed '/- pip:$$/q' envs/pipeline.yaml; sed -n '/==/s/^/      - /p' envs/lock.txt) > envs/pipeline.new
	mv envs/pipeline.new envs/pipeline.yaml

clean:  ## delete what the graph made
	rm -rf results .snakemake

clean-venv: clean  ## and the environment
	rm -rf $(VENV)
