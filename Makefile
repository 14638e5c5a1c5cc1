# Everything that a user or a developer types. `make help` lists it.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
# One thread for each model: two busy processes with two threads each are ten times slower.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help

help:  ## Show what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9_-]+:.*## / {printf "  \033[1m%-20s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev  ## Make the virtual environment with the tested versions, for development

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) -e '.[dev]'
	@touch $@

demo: $(VENV)/.run  ## Run the default comparison: print its table, and where its report lies
	$(BIN)/sdbench run

test: setup  ## Run the tests (no network, no GPU)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: test test-slow  ## Run the slow tests too

test-slow: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not timing"

test-timing: setup  # asserts a speed: for a machine that does nothing else
	$(BIN)/python -m pytest -m timing

test-gpu: setup  ## Run the tests that need CUDA
	$(BIN)/python -m pytest -m gpu

lint: setup  ## Check style, types and prose
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python tests/docs/prose.py README.md CONTRIBUTING.md CHANGELOG.md docs tests/docs

docs: setup docs-results  ## Build the documentation into site/ (no network; a warning is an error)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: setup  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

models: setup  ## Train the tiny family anew (90 minutes on two cores; resumable)
	$(BIN)/sdbench train

results: results-default results-front results-ssd results-records results-smollm2 results-verify readme  ## Make all of the reference results anew

results-default: setup  ## The default comparison on 100 prompts, into results/default
	$(BIN)/sdbench run name=default limit=100 out=results/runs/default
	$(BIN)/python -m experiments.keep results/runs/default default

results-front: setup
	$(BIN)/sdbench run experiment=pyramidsd/front out=results/runs/front
	$(BIN)/python -m experiments.keep results/runs/front front
	$(BIN)/python -m experiments.pyramidsd.verdict results/runs/front results/front

results-ssd: setup  ## Drafting beside the target, on two cores, into results/ssd-* (three quarters of an hour)
	for part in speed compiled fan_out saguaro; do \
	  $(BIN)/sdbench run experiment=ssd/$$part out=results/runs/ssd-$$part && \
	  $(BIN)/python -m experiments.keep results/runs/ssd-$$part ssd-$$part && \
	  $(BIN)/python -m experiments.ssd.verdict results/runs/ssd-$$part results/ssd-$$part || exit; \
	done
	for batch in 1 2 4 8; do \
	  $(BIN)/sdbench run experiment=ssd/batch batch_size=$$batch out=results/runs/ssd-batch-$$batch && \
	  $(BIN)/python -m experiments.keep results/runs/ssd-batch-$$batch ssd-batch/$$batch || exit; \
	done
	$(BIN)/sdbench report results/runs/ssd-batch-* --out results/ssd-batch

BENCH_EXECUTION ?= eager
BENCH_NAME ?= $(BENCH_EXECUTION)
bench: setup  ## Against transformers and flashspec, greedy and sampled, into results/bench/* (BENCH_EXECUTION=eager)
	for drawn in greedy=0.0 sampled=0.7; do \
	  kept=bench/$(BENCH_NAME)-$${drawn%=*} out=results/runs/bench-$(BENCH_NAME)-$${drawn%=*} && \
	  $(BIN)/sdbench run experiment=bench sampling.temperature=$${drawn#*=} hardware.execution=$(BENCH_EXECUTION) $(OVERRIDES) out=$$out && \
	  $(BIN)/python -m experiments.keep $$out $$kept && \
	  $(BIN)/python -m experiments.bench.verdict $$out results/$$kept || exit; \
	done

GPU_BENCH = hardware=cuda hardware.dtype=float32
GPU_MODES = eager cudagraph
RANDOM_FAMILY ?= results/runs/random-llama3
bench-gpu: setup  ## The same on one GPU; and Llama 3's triple with random weights (25 GB), acceptance forced, into results/bench/cuda
	for mode in $(GPU_MODES); do \
	  $(MAKE) bench BENCH_NAME=cuda/$$mode BENCH_EXECUTION=$$mode OVERRIDES="$(GPU_BENCH) $(OVERRIDES)" || exit; \
	done
	$(BIN)/python -m experiments.bench.random_family $(RANDOM_FAMILY)
	for mode in $(GPU_MODES); do \
	  $(BIN)/sdbench run experiment=forced hardware.execution=$$mode $(OVERRIDES) out=results/runs/bench-cuda/forced-$$mode \
	    $(foreach role,target qualifier draft,models.$(role).path=$(RANDOM_FAMILY)/$(role)) && \
	  $(BIN)/python -m experiments.keep results/runs/bench-cuda/forced-$$mode bench/cuda/forced-$$mode || exit; \
	done

bench-scaling: setup  ## Time of a step against tokens, batch, context and fan-out; ar, sd, ssd against batch; into results/bench/scaling
	$(BIN)/python -m experiments.bench.scaling results/bench/scaling
	for batch in 1 4 16; do \
	  $(BIN)/sdbench run name=batch 'arms=[ar,sd,ssd]' limit=48 max_new_tokens=64 ignore_eos=true hardware=cpu_pair \
	    batch_size=$$batch out=results/runs/batch-$$batch || exit; \
	done
	$(BIN)/python -m experiments.bench.batch results/bench/scaling results/runs/batch-1 results/runs/batch-4 results/runs/batch-16

results-records: setup
	$(BIN)/sdbench run name=records tasks=records limit=60 'arms=[ar,sd,lookup,early_exit]' out=results/runs/records
	$(BIN)/python -m experiments.keep results/runs/records records

SMOLLM2 ?= HuggingFaceTB/SmolLM2-135M-Instruct
results-smollm2: setup  ## A real model on real prompts (SMOLLM2=FOLDER or .gguf), into results/smollm2-*
	for task in spec_bench gsm8k humaneval commonsense_qa; do \
	  $(BIN)/sdbench run experiment=smollm2 models.target.path=$(SMOLLM2) tasks=$$task name=smollm2-$$task \
	    out=results/runs/smollm2-$$task && \
	  $(BIN)/python -m experiments.keep results/runs/smollm2-$$task smollm2-$$task || exit; \
	done

results-verify: setup
	mkdir -p results/verify
	$(BIN)/sdbench verify limit=100 'arms=[ar,sd,sd_qualifier,lookup,early_exit,pyramid,psd_fuzzy]' \
	  | tail -n 1 > results/verify/tiny.json
	for batch in 1 4; do \
	  $(BIN)/sdbench verify limit=100 batch_size=$$batch hardware=cpu_pair \
	    'arms=[ssd,ssd_uniform,ssd_learned,ssd_fast_backup,pearl,amusd]' \
	    | tail -n 1 > results/verify/beside-batch$$batch.json || exit; \
	done
	$(BIN)/sdbench verify limit=60 sampling.temperature=0.7 hardware=cpu_pair \
	  'arms=[sd,ssd,ssd_fast_backup,pearl,amusd,psd_fuzzy]' 'arms.ssd.grid.proposer.saguaro.c=[1.0,0.5,0.1]' \
	  'arms.ssd_fast_backup.grid.proposer.backup._target_=[sdbench.asynchronous.Lookup,sdbench.asynchronous.Random,sdbench.asynchronous.Undrafted]' \
	  | tail -n 1 > results/verify/beside-sampled.json
	$(BIN)/sdbench verify experiment=smollm2 models.target.path=$(SMOLLM2) tasks=spec_bench limit=20 max_new_tokens=48 \
	  | tail -n 1 > results/verify/smollm2.json

PROFILE ?= tiny
BUDGET ?= quick
reproduce-pyramidsd reproduce-ssd: reproduce-%: setup
	$(BIN)/python -m experiments.reproduce $* --profile $(PROFILE) --budget $(BUDGET) $(if $(DRY_RUN),--dry-run) $(OVERRIDES)
reproduce-pyramidsd:  ## PyramidSD's tables, figures and claims [PROFILE=tiny|llama3] [BUDGET=quick|paper] [DRY_RUN=1]
reproduce-ssd:  ## SSD's tables, figures and claims [PROFILE=tiny|llama3_70b|qwen3] [BUDGET=quick|paper] [DRY_RUN=1]

notebooks: setup  ## Execute the notebooks from clean kernels, outputs in place
	$(BIN)/jupyter-execute --inplace --kernel_name=python3 --NotebookClient.record_timing=False notebooks/*.ipynb

readme: setup  ## Write the README's quotations and ARTIFACT.md from results/
	$(BIN)/python -m experiments.quote
	$(BIN)/python -m experiments.artifact

verify-docs: setup
	$(BIN)/python -m experiments.artifact --check

clean:  ## Remove the virtual environment and the caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist site

.PHONY: docs bench bench-gpu bench-scaling results-records help setup demo test test-all test-slow test-timing test-gpu lint format models results results-default results-front results-ssd results-smollm2 results-verify reproduce-pyramidsd reproduce-ssd notebooks readme verify-docs clean
