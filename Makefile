# Targets call tools; logic lives in scripts/. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
NODE := node --enable-source-maps

.PHONY: help setup build run test sim bench bench-checkpoint format clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Install what is missing: apt packages (named first) and npm packages
	@bash scripts/setup.sh

build: setup ## Generate the wire code, build the native addon and the TypeScript
	@bash scripts/build.sh

run: build ## The whole path on this machine: data, train, kill, resume, sample
	@$(NODE) dist/scripts/demo.js $(ARGS)

test: build ## Every check: format, lint, types, unit, native, parity, simulation, end to end
	@$(NODE) dist/scripts/test.js $(ARGS)

sim: build ## Simulate clusters under faults: make sim SEED=7, SEEDS=1000, NODES=4..16
	@$(NODE) dist/scripts/sim.js $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(NODES),--nodes $(NODES))

bench: build ## Measure against PyTorch in the same run, where it can be imported
	@$(NODE) dist/bench/main.js $(ARGS)

bench-checkpoint: build ## Measure snapshots, saves and loads against PyTorch DCP and the disk
	@$(NODE) dist/bench/checkpoint.js $(ARGS)

format: setup ## Format TypeScript, JSON, C++ and protos in place
	@npx --no-install biome check --write . && npx --no-install buf format -w && git ls-files 'native/*.cc' 'native/*.h' | xargs clang-format -i

clean: ## Remove everything that was built
	rm -rf build dist gen
