# Thin on purpose: scripts/bootstrap.py does the work and says what it is doing.

# Plain assignments, so that a HOST or PORT that happens to be in the environment changes nothing;
# `make serve PORT=9000` does.
HOST   = 127.0.0.1
PORT   = 8000
POLICY = policies/default.yaml
MODEL  =
ARGS   =
DATA   = data

BOOT = @sh scripts/with_python.sh scripts/bootstrap.py

.PHONY: help serve test setup lint train bench clean

help:
	@echo "make serve   install, build llama.cpp, fetch a 270M model and serve it, moderated,"
	@echo "             on http://127.0.0.1:8000. Variables: PORT, HOST, POLICY=file, MODEL=file.gguf"
	@echo "make test    install everything incl. vLLM for the CPU; lint; run every test."
	@echo "             ARGS='-k text' is passed to pytest"
	@echo "make setup   only prepare .venv and the model"
	@echo "make train   reproduce the shipped weights from the data sets in DATA=folder (pip install"
	@echo "             -e '.[train]' first; an hour or two on one core). ARGS go to python -m training;"
	@echo "             ARGS=--quick only shows in minutes that every step runs"
	@echo "make bench   measure what moderation costs, beside bare engines and other products, and write"
	@echo "             docs/benchmarks.md (20 minutes on two cores; after make test, which installs the"
	@echo "             engines). ARGS='--only step --quick' are passed on"
	@echo "make lint    ruff and mypy --strict"
	@echo "make clean   delete .venv and caches in the tree (not ~/.cache/prism)"

serve:
	$(BOOT) serve --host '$(HOST)' --port '$(PORT)' --policy '$(POLICY)' --model '$(MODEL)'

test:
	$(BOOT) test -- $(ARGS)

setup:
	$(BOOT) setup

lint:
	$(BOOT) lint

train:
	.venv/bin/python -m training --data '$(DATA)' $(ARGS)

bench:
	.venv/bin/python benchmarks/run.py --json docs/benchmarks.json --report $(ARGS)

clean:
	$(BOOT) clean
