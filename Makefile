# Everything starts from a bare machine with Python 3.11: each target makes its own environment first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_OUTPUT ?= demo-output
# Torch's thread pools fight when several processes share two cores; Ray's actors set their own number.
export OMP_NUM_THREADS ?= 1

BIN_OLDEST := .venv-oldest/bin
STAMP_OLDEST := .venv-oldest/.installed

.PHONY: help venv demo test test-slow test-oldest check format bench chaos study train lock pages picture

help:
	@echo "make demo       re-rank real documentation with the embedded model, and print what came out"
	@echo "make test       the test suite"
	@echo "make check      format, lint, types, import borders"
	@echo "make test-slow  tests that take minutes"
	@echo "make test-oldest tests of qrcore with the oldest torch and transformers that it supports, without Ray"
	@echo "make chaos      kill runs at named points behind a bad network, and write the table of what came out"
	@echo "make bench      benchmarks    make study  quality of the embedded model on real collections"
	@echo "make train      train the embedded models again (hours on two cores)"
	@echo "make venv       only the environment    make lock  write infra/constraints.txt anew"
	@echo "make pages      README's tree and the jobs' settings from the code    make picture  README's picture"

venv: $(STAMP)

# Torch has a step of its own: its builds differ by platform, so it is pinned by version and nothing else.
$(STAMP): pyproject.toml infra/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' infra/constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c infra/constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c infra/constraints.txt \
		-e '.[test,check]'
	touch $(STAMP)

demo: venv
	$(BIN)/qrbatch demo --output $(DEMO_OUTPUT)

# TEST_PROCESSES: each takes a Ray of its own; tests of one file stay in one of them, files in the order of conftest.py.
TEST_PROCESSES ?= 2
test: venv
	$(BIN)/python -m pytest -q -m "not slow" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-slow: venv
	$(BIN)/python -m pytest -q -m slow

# torch from PyPI is the build for GPUs, which runs on a CPU, too: several gigabytes, in an environment of its own.
$(STAMP_OLDEST): infra/constraints-oldest.txt
	test -x $(BIN_OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	$(BIN_OLDEST)/python -m pip install --quiet --disable-pip-version-check -r infra/constraints-oldest.txt
	touch $(STAMP_OLDEST)

test-oldest: $(STAMP_OLDEST)
	$(BIN_OLDEST)/python -m pytest -q -m "not slow" tests/qrcore tests/benchmarks/test_gpu.py

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv
	for part in engine memory packing loading detection pipeline long_context influence; do $(BIN)/python -m tests.benchmarks.$$part || exit; done

# KILLS: at each named point.
KILLS ?= 5
chaos: venv
	$(BIN)/python -m tests.chaos --kills $(KILLS)

# LISTS: folder of judged lists that are made from the collections beside the repository.
LISTS ?= judged-lists
$(LISTS)/.built: tests/benchmarks/embedded_lists.py | $(STAMP)
	$(BIN)/python -m tests.benchmarks.embedded_lists --output $(LISTS)
	touch $@

# HEADS: folder of the lists and runs of the study of heads.
HEADS ?= head-study
$(HEADS)/lists/.built: tests/benchmarks/head_lists.py tests/benchmarks/embedded_lists.py | $(STAMP)
	$(BIN)/python -m tests.benchmarks.head_lists --output $(HEADS)/lists
	touch $@

# DATA: folder of the collections.
DATA ?= ../shared/data
# What ways of choosing heads are worth, on every collection that fits, and what is kept of long contexts; results go to
# tests/benchmarks/results.
study: venv $(LISTS)/.built $(HEADS)/lists/.built
	$(BIN)/python -m tests.benchmarks.embedded_study --lists $(LISTS)
	$(BIN)/python -m tests.benchmarks.head_study --lists $(HEADS)/lists --work $(HEADS)
	$(BIN)/python -m tests.benchmarks.precision --lists $(HEADS)/lists
	$(BIN)/python -m tests.benchmarks.context_study --data $(DATA)
	$(BIN)/python -m tests.benchmarks.influence_study
	$(BIN)/python -m tests.benchmarks.steering_study --lists $(LISTS)

lock: venv
	{ echo "# Exact versions of everything that make venv installs (Python 3.11, Linux). Written by: make lock"; \
	  $(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu$$//'; } > infra/constraints.txt

pages: venv
	$(BIN)/python -m tests.pages

picture: venv
	$(BIN)/python -m tests.picture

# TEXT: a Parquet file or folder with a column text; QUESTIONS: one with question rows.
train: venv $(LISTS)/.built
	@test -n "$(TEXT)" -a -n "$(QUESTIONS)" || { echo "make train TEXT=file-or-folder QUESTIONS=file-or-folder" >&2; exit 2; }
	for name in embedded embedded-gqa; do \
	  $(BIN)/qrbatch train-embedded --config infra/training/$$name.yaml --input $(TEXT) --questions $(QUESTIONS) \
	    --evaluation $(LISTS) --output trained/$$name || exit; \
	done
