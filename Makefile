# `make help` lists the targets. Variables can be set on the command line: make demo OUT=slim-more SLIM_ARGS='--overwrite --max-error 0.003'
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= test,dev,bench,deploy,quant,mobile
OUT    ?= slim-emoji
SLIM_ARGS   ?= --overwrite
PYTEST_ARGS ?=
MUTANTS_ARGS ?=
# Test processes, of one thread each: more threads than cores wait for one another.
WORKERS ?= 2
# Another Python than .venv's, and the part of the tests that is run under it: capture, files, public names, compilers.
OTHER_PYTHON ?= python3.13
SMOKE := tests/passes/program tests/passes/capture tests/test_docstrings.py tests/slimdiff_fx/files \
  tests/slimdiff_fx/slimming/test_while_compiling.py tests/end_to_end/test_saved_pipeline.py
BENCH_MODELS ?= emoji $(wildcard $(OUT))
BACKEND ?= ort

# Threads that wait must not spin for long: beside another process they take the cores that they wait for.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 1000

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-processors test-python mutants check format bench docs clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(STAMP) ## Install everything into .venv, at the tested versions

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: $(STAMP) ## Slim the built-in pipeline `emoji` into slim-emoji/, with a page on it
	$(BIN)/slimdiff-fx slim emoji -o $(OUT) $(SLIM_ARGS)

test: $(STAMP) ## Run the tests, but for the slow ones
	$(PYTEST) $(PYTEST_ARGS)

test-all: $(STAMP) ## Run every test, slow ones included, each with captures of its own
	$(PYTEST) -m "" --real-captures $(PYTEST_ARGS)

test-processors: $(STAMP) ## Run all but the slow tests as other processors would: their kernels, one thread and two
	for kernels in ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 --unset=ATEN_CPU_CAPABILITY; do \
	  for threads in 1 2; do \
	    echo "$$kernels, OMP_NUM_THREADS=$$threads"; \
	    env $$kernels OMP_NUM_THREADS=$$threads $(BIN)/python -m pytest $(PYTEST_ARGS) || exit 1; \
	  done; \
	done

test-python: build/other-python/.installed ## Run a small part of the tests under another Python: OTHER_PYTHON=python3.13
	OMP_NUM_THREADS=1 build/other-python/bin/python -m pytest -n $(WORKERS) --dist loadfile $(SMOKE)

build/other-python/.installed: pyproject.toml constraints.txt
	$(OTHER_PYTHON) -m venv --clear build/other-python
	build/other-python/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[test]'
	touch $@

mutants: $(STAMP) ## Put 200 small bugs in, one at a time: would the tests notice?
	$(BIN)/python -m benchmarks.mutants $(MUTANTS_ARGS)

check: $(STAMP) ## Check format, lint, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## Measure latency, dense and slim in turn, and the observers' overhead
	$(BIN)/python -m benchmarks.latency --backend $(BACKEND) $(BENCH_MODELS)
	$(BIN)/python -m benchmarks.cost --part overhead

docs: $(STAMP) ## Build the site of docs/ into build/site; a dead link is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Remove what the demo and the tools wrote (not .venv)
	rm -rf $(OUT) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .mutants_cache
