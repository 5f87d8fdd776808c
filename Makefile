# make demo   the Kaggle notebook on the embedded defaults, from nothing but Python
# make test   all tests
# make docs   the documentation site, in _docs/
# make slow, make oldest, make chaos: long tests, the oldest releases, faults at every write (SEED=0 SEEDS=500)
# make bench, make quality, make performance, make queue, make gpu: measurements
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export IPYTHONDIR := $(CURDIR)/$(VENV)/ipython
export PYTHONUNBUFFERED := 1

.PHONY: demo test docs slow chaos bench quality performance queue gpu oldest notebooks clean leftovers

$(VENV)/installed: settings.ini setup.py pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip setuptools wheel -c constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/python nbs/_site/execute.py nbs/kaggle.ipynb --out output

# a run of the tests that was killed may have left a made-up Kaggle in place, which lessons would take for a real one
leftovers: $(VENV)/installed
	$(BIN)/python tests/leftovers.py

# processes beside each other have one thread each: two with two on two cores took 13 s for what these do in 8;
# the Kaggle notebook takes longest, so it begins with the first of the others; Ray's processes give way to all others
ONE_THREAD := OMP_NUM_THREADS=1
test: leftovers
	$(ONE_THREAD) $(BIN)/nbdev_test --timing nbs/kaggle.ipynb & kaggle=$$!; \
	$(ONE_THREAD) $(BIN)/nbdev_test --timing --skip-file-re '^(kaggle|48_|49_)' || { kill $$kaggle; exit 1; }; \
	wait $$kaggle
	$(ONE_THREAD) $(BIN)/nbdev_test --timing --file-re '^4[89]_'
	$(ONE_THREAD) $(BIN)/python -m pytest -q -rs -m 'not slow and not alone' -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -q -rs -m 'not slow and alone'

slow: $(VENV)/installed
	$(BIN)/python -m pytest -q -m slow

# faults at every place that writes; prints the seeds that make a difference, and how to have them again
SEED ?= 0
SEEDS ?= 500
chaos: $(VENV)/installed
	$(BIN)/python tests/chaos.py --seed $(SEED) --seeds $(SEEDS)

bench: $(VENV)/installed
	$(BIN)/python tests/bench_speed.py
	$(BIN)/python tests/bench_engine.py
	$(BIN)/python tests/bench_pipeline.py
	$(BIN)/python tests/bench_search.py
	$(BIN)/python tests/bench_search.py --points 10000

# how good the answers are, each rule of ranking alone and all together; over documents, too, with CORPUS=DIR (chunk files) or RUN=OUT
quality: $(VENV)/installed
	$(BIN)/python tests/bench_ranking.py $(if $(CORPUS),--corpus $(CORPUS)) $(if $(RUN),--run $(RUN))
	$(BIN)/python tests/bench_ranking.py --speed

# this package and others like it side by side, under ten minutes; the peers live in an environment of their own
performance: .venv-peers/installed
	.venv-peers/bin/python tests/bench_peers.py

# fastembed asks for an older huggingface-hub than transformers does, and needs it for downloads alone
.venv-peers/installed: settings.ini setup.py constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install -q --upgrade pip
	.venv-peers/bin/python -m pip install -q -c constraints.txt -e '.[offline,chunk,parquet,gpu,qdrant,ray]' onnxruntime onnx llama-index-embeddings-huggingface txtai pandas loguru mmh3 py-rust-stemmers
	.venv-peers/bin/python -m pip install -q --no-deps fastembed
	touch $@

# the queue on up to 512 devices that are made up
queue: $(VENV)/installed
	$(BIN)/python tests/simulate_queue.py

# needs a GPU: memory predicted and measured, speed, for models of the mission's shapes
gpu: $(VENV)/installed
	$(BIN)/python tests/bench_gpu.py

# on the oldest releases that settings.ini allows, in an environment of its own; nbdev needs newer ones and is left out
oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -q -m 'not slow' --ignore tests/test_project.py --ignore tests/test_site.py --ignore tests/test_jupyterlab.py --ignore tests/test_kaggle.py --ignore tests/test_dashboard.py --ignore tests/test_search_integrations.py

.venv-oldest/installed: settings.ini setup.py constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -q --upgrade pip
	.venv-oldest/bin/python -m pip install -q -c constraints-oldest.txt -e '.[offline,chunk,parquet,gpu,qdrant]' pytest nbclient ipykernel nbformat
	touch $@

docs: leftovers
	$(BIN)/python nbs/_site/build.py

notebooks: $(VENV)/installed
	rm -rf nbs/output
	$(BIN)/python nbs/_site/execute.py nbs/*.ipynb --in-place
	$(BIN)/nbdev-export
	$(BIN)/python nbs/_site/quickstart.py
	$(BIN)/python nbs/_site/readme.py
	$(BIN)/python nbs/_site/wheel.py
	$(BIN)/nbdev-clean

clean:
	rm -rf $(VENV) .venv-oldest .venv-peers _proc _docs output nbs/output
