# The commands for users and developers. `make help` lists them.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
# One thread per model. On two cores, two busy processes with two threads each are ten times slower.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help

help:  ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9_-]+:.*## / {printf "  \033[1m%-20s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev  ## Make the virtual environment for development, with the tested versions

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) -e .
	@touch $@

# One installation, because each resolves all packages.
$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) -e '.[dev]'
	@touch $(VENV)/.run $@

demo: $(VENV)/.run  ## Run the default comparison, and print its table and the path of its report
	$(BIN)/sdbench run

MAX_SKIPS ?= 31
test: setup  ## Run the tests (no network, no GPU); fail if more than MAX_SKIPS are skipped
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-skips $(MAX_SKIPS)

test-all: test test-slow  ## Run the slow tests too

test-slow: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not timing"

test-timing: setup  # asserts a speed, so the machine must run nothing else
	$(BIN)/python -m pytest -m timing

test-gpu: setup  ## Run the tests that need CUDA
	$(BIN)/python -m pytest -m gpu

lint: setup  ## Check style, types and prose
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python tests/docs/prose.py README.md ARTIFACT.md CONTRIBUTING.md CHANGELOG.md docs sdbench experiments conf hydra_plugins tests

docs: docs-results site  ## Write the generated pages, and build the documentation into site/ (no network)

site: setup  # warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: setup  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

models: setup  ## Train the tiny family again (90 minutes on two cores; resumable)
	$(BIN)/sdbench train

SDBENCH_SMOLLM2 ?= HuggingFaceTB/SmolLM2-135M-Instruct
SMOLLM2 ?= $(SDBENCH_SMOLLM2)
override SDBENCH_SMOLLM2 := $(SMOLLM2)
export SDBENCH_SMOLLM2
SMOLLM2_MODELS = results/models/smollm2-135m
SMOLLM2_DTYPE ?= float32
SMOLLM2_TRAINING = data=chat_and_problems recipe.data_tokens=490000 recipe.batch_tokens=2048 recipe.learning_rate=1.0e-3 recipe.vocabulary=8192
models-smollm2: setup  ## Train a draft, a qualifier and an EAGLE-3 head for SmolLM2-135M (SMOLLM2=FOLDER or .gguf; hours; resumable)
	for part in \
	  'eagle3 eagle3 recipe.head.own_head=false recipe.steps=3 recipe.tokens=1600000' \
	  'draft distill recipe.layers=[0,29] recipe.tokens=1500000' \
	  'qualifier distill recipe.layers=[0,1,2,3,28,29] recipe.tokens=1000000'; do \
	  set -- $$part; name=$$1 recipe=$$2; shift 2; \
	  $(BIN)/sdbench train recipe=$$recipe models=smollm2 name=smollm2-$$name \
	    $(SMOLLM2_TRAINING) $$* hardware.dtype=$(SMOLLM2_DTYPE) hardware.threads=2 rows=128 \
	    work=$(SMOLLM2_MODELS)/work out=results/runs/smollm2-$$name $(OVERRIDES) && \
	  rm -rf $(SMOLLM2_MODELS)/$$name && cp -R results/runs/smollm2-$$name/model $(SMOLLM2_MODELS)/$$name || exit; \
	done

RUN     = $(BIN)/sdbench run
ARCHIVE = $(BIN)/python -m sdbench.papers archive

results: results-default results-front results-ssd results-untrained results-smollm2 results-verify docs-results  ## Measure all reference results again

results-default: setup  ## Run the default comparison on 100 prompts, into results/default
	$(RUN) name=default limit=100 out=results/runs/default
	$(ARCHIVE) results/runs/default default

results-front: setup  ## Measure speed against quality over thresholds and lengths, into results/front
	$(RUN) experiment=pyramidsd/front out=results/runs/front
	$(ARCHIVE) results/runs/front front

results-lossy: setup  ## Place every lossy method between speed and quality: 200 word problems, and 100 GSM8K rows of SmolLM2-135M (SMOLLM2=FOLDER or .gguf; after models-smollm2), into results/lossy/* (hours)
	for drawn in greedy=0.0 sampled=0.6; do \
	  for part in 'tiny-wordproblems lossy hardware.execution=compile' 'smollm2-gsm8k lossy_smollm2 hardware.dtype=$(SMOLLM2_DTYPE)'; do \
	    set -- $$part; kept=$$1-$${drawn%=*}; \
	    $(RUN) experiment=$$2 $$3 sampling.temperature=$${drawn#*=} $(OVERRIDES) out=results/runs/lossy-$$kept && \
	    $(ARCHIVE) results/runs/lossy-$$kept lossy/$$kept || exit; \
	  done; \
	done

results-ssd: setup  ## Measure asynchronous drafting on two cores, into results/ssd-* (45 minutes)
	for part in speed compiled fan_out saguaro; do \
	  $(RUN) experiment=ssd/$$part out=results/runs/ssd-$$part && $(ARCHIVE) results/runs/ssd-$$part ssd-$$part || exit; \
	done

results-untrained: setup  ## Compare chains, trees and drafters without training on three tasks, into results/untrained/ (15 minutes)
	for task in wordproblems stories records; do \
	  $(RUN) experiment=untrained tasks=$$task name=untrained-$$task out=results/runs/untrained-$$task && \
	  $(ARCHIVE) results/runs/untrained-$$task untrained/$$task || exit; \
	done

RECIPES = results/runs/recipes
RECIPES_KEPT = results/training/recipes
RECIPES_BUDGET = data=kept_corpus recipe.data.path=results/training/smollm2-135m/corpus.jsonl.gz recipe.data_tokens=60000 recipe.tokens=180000 recipe.learning_rate=1.0e-3
results-recipes: setup  ## Compare training recipes at equal budgets on SmolLM2-135M (SMOLLM2=FOLDER or .gguf), into results/training/recipes/ (90 minutes)
	sets=; for words in gsm8k 'humaneval ignore_eos=true' spec_bench mt_bench; do \
	  task=$${words%% *}; \
	  $(RUN) arms=[ar] models=smollm2 tasks=$$words limit=24 max_new_tokens=96 batch_size=8 repeats=1 out=$(RECIPES)/answers-$$task || exit; \
	  sets="$$sets +data@held_out.$$task=finished_run held_out.$$task.path=$(RECIPES)/answers-$$task"; \
	done; \
	for part in 'distill-kl_div distill' 'distill-tv distill recipe.divergence=tv' 'distill-ce distill recipe.divergence=ce' \
	  'distill-rkl distill recipe.divergence=rkl' 'distill-jsd distill recipe.divergence=jsd' \
	  'distill-lk_hybrid distill recipe.divergence=lk_hybrid' 'adaspec adaspec' 'streak streak' \
	  'pard pard recipe.mask_token=3' 'eagle3 eagle3 recipe.head.own_head=false recipe.steps=3' 'medusa medusa' \
	  'specformer specformer' 'parallelspec parallelspec' 'specdec specdec'; do \
	  set -- $$part; name=$$1 recipe=$$2; shift 2; \
	  $(BIN)/sdbench train recipe=$$recipe models=smollm2 $(RECIPES_BUDGET) $$* $$sets hardware.threads=2 hardware.dtype=$(SMOLLM2_DTYPE) \
	    work=$(RECIPES)/work out=$(RECIPES)/$$name $(OVERRIDES) && \
	  mkdir -p $(RECIPES_KEPT) && cp $(RECIPES)/$$name/model/card.json $(RECIPES_KEPT)/$$name.json || exit; \
	done

SMOLLM2_OPTIONS ?=
results-smollm2: setup  ## Measure SmolLM2 on real prompts (SMOLLM2=FOLDER or .gguf), into results/smollm2-*
	for words in spec_bench gsm8k 'humaneval ignore_eos=true'; do \
	  task=$${words%% *}; \
	  $(RUN) experiment=smollm2 tasks=$$words name=smollm2-$$task $(SMOLLM2_OPTIONS) \
	    out=results/runs/smollm2-$$task && \
	  $(ARCHIVE) results/runs/smollm2-$$task smollm2-$$task || exit; \
	done

results-smollm2-eagle3: setup  ## Measure the packaged EAGLE-3 head of SmolLM2 on GSM8K (SMOLLM2=FOLDER or .gguf), into results/smollm2_135m/gsm8k
	$(RUN) experiment=smollm2_135m_eagle3 name=smollm2-135m-gsm8k hardware.dtype=$(SMOLLM2_DTYPE) $(OVERRIDES) \
	  out=results/runs/smollm2-135m-gsm8k
	$(ARCHIVE) results/runs/smollm2-135m-gsm8k smollm2_135m/gsm8k

results-smollm2-trained: setup  ## Measure what models-smollm2 trains on GSM8K: drafters, SSD, lengths, PyramidSD (SMOLLM2=FOLDER or .gguf), into results/smollm2_135m/trained-*
	$(RUN) experiment=smollm2_135m name=smollm2-135m-trained hardware.dtype=$(SMOLLM2_DTYPE) $(OVERRIDES) out=results/runs/smollm2-135m-trained
	$(ARCHIVE) results/runs/smollm2-135m-trained smollm2_135m/trained-gsm8k
	$(RUN) experiment=smollm2_135m_ssd name=smollm2-135m-ssd hardware.dtype=$(SMOLLM2_DTYPE) $(OVERRIDES) out=results/runs/smollm2-135m-ssd
	$(ARCHIVE) results/runs/smollm2-135m-ssd smollm2_135m/trained-ssd
	$(RUN) experiment=smollm2_135m_lengths hardware.dtype=$(SMOLLM2_DTYPE) $(OVERRIDES) out=results/runs/smollm2-135m-lengths
	$(ARCHIVE) results/runs/smollm2-135m-lengths smollm2_135m/trained-lengths
	$(RUN) experiment=smollm2_135m_pyramid hardware.dtype=$(SMOLLM2_DTYPE) $(OVERRIDES) out=results/runs/smollm2-135m-pyramid
	$(ARCHIVE) results/runs/smollm2-135m-pyramid smollm2_135m/trained-pyramid
	for drawn in 0.7 1.0; do \
	  $(RUN) experiment=smollm2_135m_shapes sampling.temperature=$$drawn hardware.dtype=$(SMOLLM2_DTYPE) $(OVERRIDES) \
	    out=results/runs/smollm2-135m-shapes-$$drawn && \
	  $(ARCHIVE) results/runs/smollm2-135m-shapes-$$drawn smollm2_135m/trained-shapes-$$drawn || exit; \
	done

BENCH_EXECUTION ?= eager
BENCH_NAME ?= $(BENCH_EXECUTION)
bench: setup  ## Compare with transformers and flashspec, greedy and sampled, into results/bench/* (BENCH_EXECUTION=eager)
	for drawn in greedy=0.0 sampled=0.7; do \
	  kept=bench/$(BENCH_NAME)-$${drawn%=*} out=results/runs/bench-$(subst /,-,$(BENCH_NAME))-$${drawn%=*} && \
	  $(RUN) experiment=bench sampling.temperature=$${drawn#*=} hardware.execution=$(BENCH_EXECUTION) $(OVERRIDES) out=$$out && \
	  $(ARCHIVE) $$out $$kept || exit; \
	done

bench-engines: setup  ## Compare with ONNX Runtime GenAI, OpenVINO GenAI and llama.cpp: the tiny family, and SmolLM2 alone (SMOLLM2=FOLDER or .gguf), into results/engines/*
	$(RUN) experiment=engines out=results/runs/engines-tiny $(OVERRIDES)
	$(ARCHIVE) results/runs/engines-tiny engines/tiny
	$(RUN) experiment=engines_smollm2 out=results/runs/engines-smollm2 $(OVERRIDES)
	$(ARCHIVE) results/runs/engines-smollm2 engines/smollm2

GPU_BENCH = hardware=cuda hardware.dtype=float32
GPU_MODES = eager cudagraph
RANDOM_FAMILY ?= results/runs/random-llama3
bench-gpu: setup  ## Run `bench` on one GPU, also for Llama 3's triple with random weights (25 GB), into results/bench/cuda
	for mode in $(GPU_MODES); do \
	  $(MAKE) bench BENCH_NAME=cuda/$$mode BENCH_EXECUTION=$$mode OVERRIDES="$(GPU_BENCH) $(OVERRIDES)" || exit; \
	done
	$(BIN)/python -m experiments.benchmarks.random_family $(RANDOM_FAMILY)
	for mode in $(GPU_MODES); do \
	  $(RUN) experiment=forced hardware.execution=$$mode $(OVERRIDES) out=results/runs/bench-cuda-forced-$$mode \
	    $(foreach role,target qualifier draft,models.$(role).path=$(RANDOM_FAMILY)/$(role)) && \
	  $(ARCHIVE) results/runs/bench-cuda-forced-$$mode bench/cuda/forced-$$mode || exit; \
	done

bench-scaling: setup  ## Measure the time of a step against tokens, batch, context and fan-out, into results/bench/scaling
	$(BIN)/python -m experiments.benchmarks.scaling results/bench/scaling

bench-rounds: setup  ## Measure the parts of a round's time, eager and compiled, into results/rounds
	for mode in eager compile; do \
	  $(RUN) name=rounds-$$mode 'arms=[ar,sd]' 'arms.sd.grid.draft_length=[3,5]' limit=12 hardware.execution=$$mode \
	    out=results/runs/rounds-$$mode || exit; \
	done
	$(BIN)/python -m experiments.benchmarks.rounds results/runs/rounds-eager results/runs/rounds-compile

TREE_OPTIONS ?= --repeats 21
TREE_TASK ?= wordproblems
bench-trees: setup  ## Measure T_v(n) and try the tree that it recommends, into results/bench/trees (SMOLLM2=FOLDER or .gguf)
	$(BIN)/python -m experiments.benchmarks.trees results/bench/trees/tiny.json $(TREE_OPTIONS) limit=40 $(OVERRIDES)
	$(BIN)/python -m experiments.benchmarks.trees results/bench/trees/smollm2.json $(TREE_OPTIONS) --layers 15 \
	  models=smollm2 tasks=$(TREE_TASK) limit=6 max_new_tokens=64 $(OVERRIDES)

results-verify: setup  ## Check each method by the oracle and by greedy identity, into results/verify
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
	$(BIN)/sdbench verify experiment=smollm2 tasks=spec_bench limit=20 max_new_tokens=48 \
	  | tail -n 1 > results/verify/smollm2.json

PROFILE ?= tiny
BUDGET ?= quick
reproduce-pyramidsd reproduce-ssd: reproduce-%: setup
	$(BIN)/python -m sdbench.papers reproduce $* --profile $(PROFILE) --budget $(BUDGET) $(if $(DRY_RUN),--dry-run) $(OVERRIDES)
reproduce-pyramidsd:  ## Reproduce PyramidSD's tables, figures and claims [PROFILE=tiny|smollm2_135m|llama3] [BUDGET=quick|paper] [DRY_RUN=1]
reproduce-ssd:  ## Reproduce SSD's tables, figures and claims [PROFILE=tiny|smollm2_135m|llama3_70b|qwen3] [BUDGET=quick|paper] [DRY_RUN=1]

notebooks: setup  ## Execute the notebooks in new kernels, and save the outputs in them
	$(BIN)/jupyter-execute --inplace --kernel_name=python3 --NotebookClient.record_timing=False notebooks/*.ipynb

docs-results: setup  ## Write docs/results, ARTIFACT.md and the README's table and figure from results/
	$(BIN)/python -m sdbench.papers.render_docs

verify-docs: setup  ## List the stale files among those that docs-results writes
	$(BIN)/python -m sdbench.papers.render_docs --check

wheel-check: setup  ## Build sdist and wheel into dist/, and run the default comparison from the wheel in an empty folder
	.ci/wheel $(BIN)/python dist

clean:  ## Remove the virtual environment and the caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist site

.PHONY: bench bench-engines bench-gpu bench-rounds bench-scaling bench-trees clean demo docs docs-results format help lint models models-smollm2 notebooks reproduce-pyramidsd reproduce-ssd results results-default results-front results-lossy results-recipes results-smollm2 results-smollm2-eagle3 results-smollm2-trained results-ssd results-untrained results-verify setup site test test-all test-gpu test-slow test-timing verify-docs wheel-check
