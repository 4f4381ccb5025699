# Targets call tools; logic lives in scripts/. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
NODE := node --enable-source-maps

.PHONY: help setup build cuda run test test-gpu test-kubernetes test-cluster test-s3 sim faults bench bench-checkpoint bench-controller metrics-page signals-page dashboards crd images format clean

help: ## List the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## Install what is missing: apt packages (named first) and npm packages
	@bash scripts/setup.sh

build: setup ## Generate the wire code, build the native addon and the TypeScript
	@bash scripts/build.sh

run: build ## The whole path on this machine: data, train, kill, resume, sample
	@$(NODE) dist/scripts/demo.js $(ARGS)

test: build ## Every check: format, lint, types, unit, native, parity, simulation, end to end
	@$(NODE) dist/scripts/test.js $(ARGS)

cuda: setup ## Build the CUDA backend, goku_cuda.node: docs/cuda.md
	@bash scripts/build_cuda.sh addon

test-gpu: build cuda ## Kernels, parity and a whole job on this machine's CUDA device
	@bash scripts/test_gpu.sh $(ARGS)

test-kubernetes: build ## Our side of Kubernetes on a real control plane, built once from Debian's sources: docs/kubernetes.md
	@bash scripts/kubernetes_control_plane.sh
	@GOKU_TEST_KUBERNETES=build/kubernetes $(NODE) --test --test-concurrency=1 $(ARGS) dist/test/e2e/kubernetes/*.test.js

test-cluster: build ## A whole cluster on this machine: kubelets, containers, our images, the overlay cpu-demo; root alone: docs/kubernetes.md
	@bash scripts/test_cluster.sh $(ARGS)

test-s3: build ## Everything through S3 on Ceph's radosgw as well; installs it, 260 MB
	@bash scripts/test_s3.sh $(ARGS)

sim: build ## Simulate clusters under faults: make sim SEED=7, SEEDS=1000, NODES=4..16
	@$(NODE) dist/scripts/sim.js $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(NODES),--nodes $(NODES))

faults: build ## Every fault at every moment, on real clusters: docs/faults.md; ARGS="--only sigkill --moment saving", --list
	@$(NODE) dist/scripts/faults.js $(ARGS)

bench: build ## Measure against PyTorch in the same run, where it can be imported
	@$(NODE) dist/bench/main.js $(ARGS)

bench-checkpoint: build ## Measure snapshots, saves and loads against PyTorch DCP and the disk
	@$(NODE) dist/bench/checkpoint.js $(ARGS)

bench-controller: build ## Measure one controller with 12,288 simulated ranks on 1,536 agents
	@$(NODE) dist/bench/controller_scale.js $(ARGS)

metrics-page: build ## Write docs/metrics.md from the catalogue in job/metrics.ts
	@$(NODE) dist/scripts/metrics_page.js

signals-page: build ## Write docs/hardware-signals.md from the catalogue in job/signals
	@$(NODE) dist/scripts/signals_page.js

dashboards: build ## Write the Grafana dashboards and Kubernetes' copy of the Prometheus rules from their sources
	@$(NODE) dist/scripts/dashboards.js

format: setup ## Format TypeScript, JSON, C++ and protos in place
	@npx --no-install biome check --write . && npx --no-install buf format -w && git ls-files 'native/*.cc' 'native/*.h' 'native/*.cu' | xargs clang-format -i

crd: build ## Write the Kubernetes resource definition anew, after the job schema has changed
	@$(NODE) dist/scripts/crd.js

images: ## Container images controller, worker-cpu and worker-cuda, with docker, podman or buildah; ARGS="worker-cpu", see deploy/docker/build.sh
	@bash deploy/docker/build.sh $(ARGS)

clean: ## Remove everything that was built
	rm -rf build dist gen
