# The two commands of the README, and what they share.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/seedling
# Sentences of real people to evaluate on too, where they lie beside the checkout.
SENTENCES ?= $(wildcard ../shared/data/sad/sentences.jsonl)
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: train test lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

train: $(VENV)/.installed  ## train the seedling and show the report
	$(BIN)/heartloop train configs/seedling.toml --out $(RUN) $(if $(SENTENCES),--set eval.sentences=$(SENTENCES))

test: lint  ## lint, types and all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check heartloop tests benchmarks
	$(BIN)/ruff format --check heartloop tests benchmarks
	$(BIN)/mypy

clean:
	rm -rf $(VENV)
