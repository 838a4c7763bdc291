# `make help` lists the targets. Everything runs in .venv, which `make setup` creates from pinned and hashed requirements.

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PYTHON ?=
# One process per core: more threads in each would only compete.
# Files in their order: xdist would keep those of few, long tests for last, and one process would end alone.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Switches: FORCE=1. FORCE=0 and FORCE=no are off, as whoever writes them means.
on = $(filter-out 0 no No NO false False FALSE off,$(1))

# Object storage, the KFP endpoint and the namespace may come from the environment.
STORAGE   ?=
ENDPOINT  ?= $(KF_PIPELINES_ENDPOINT)
NAMESPACE ?= kubeflow

# What the user gives reaches the shell through the environment: there it is a value, in a recipe it would be code. It is taken
# as it is written: make, too, would run a $(shell ...) in it, and lose what follows any other $.
GIVEN := BASE_IMAGE BUILD_ARGS CUDA_ARCHS DEVICE DOCKER DRY_RUN ENDPOINT FLAVOR FORCE FRESH GPU_RESOURCE MAX_JOBS NAMESPACE \
         NETWORK_POLICY NO_CACHE OVERLAY PARAMS PIPELINE PIP_INDEX_URL PLATFORM PULL_SECRET QUEUE REGISTRY RUN SET SIZES \
         SERVICE_ACCOUNT SOURCE STEP STORAGE TAG WAIT
$(foreach name,$(GIVEN) KF_PIPELINES_ENDPOINT,$(if $(filter command environment,$(origin $(name))),\
  $(eval override $(name) := $$(value $(name)))))
export $(GIVEN)
SIZED   = set -f; for pair in $$SET; do set -- "$$@" --set "$$pair"; done; set -- "$$@" --sizes "$$SIZES"
CLUSTER = $(SIZED); for param in $$PARAMS; do set -- "$$@" --param "$$param"; done; \
          set -- "$$@" --endpoint "$$ENDPOINT" --registry "$$REGISTRY" --tag "$$TAG" --queue "$$QUEUE" \
            --service-account "$$SERVICE_ACCOUNT" $(if $(call on,$(WAIT)),--wait); \
          test "$$NAMESPACE" = kubeflow || set -- "$$@" --namespace "$$NAMESPACE"

.DEFAULT_GOAL := help
.PHONY: help setup demo bytecode test test-slow check check-gpu lint format compile submit rerun status \
        build-images push-images test-images sbom deploy lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install everything, pinned and hashed

# Wheels only, but of two packages that have none: they are built with the pinned setuptools, and pip fetches nothing for it.
$(STAMP): requirements/dev.txt requirements/build.txt pyproject.toml
	@for python in $(PYTHON) python3.11 python3.12 python3 python; do \
	  $$python -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null || continue; \
	  $(BIN)/python -c '' 2>/dev/null || $$python -m venv --clear $(VENV) || exit 1; \
	  exit 0; \
	done; \
	echo "make setup: expected Python 3.11 or 3.12 with ensurepip, found none; give one: make setup PYTHON=/path/to/python" >&2; \
	exit 2
	@echo "installing the pinned requirements into $(VENV): several GB with CUDA's libraries, a few minutes"
	$(BIN)/pip install --quiet --no-deps --require-hashes --only-binary :all: -r requirements/build.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes --only-binary :all: --no-binary mmcv,kfp-server-api \
	  --no-build-isolation -r requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## run the whole pipeline on sample data (FRESH=1 starts over)
	@$(BIN)/python -m pipelines demo $(if $(call on,$(FRESH)),--fresh) $(if $(call on,$(DOCKER)),--docker)

check-gpu: ## what only a GPU shows, in under six minutes (DEVICE=cpu rehearses it; where there is no .venv, with python3)
	$(or $(PYTHON),$(wildcard $(BIN)/python),python3) -m benchmarks.gpu $${DEVICE:+--device "$$DEVICE"}

check: lint test ## what CI runs: lint and test

# Tests start hundreds of processes: where Python is told to write no bytecode, each would compile the code again.
bytecode: $(STAMP) ## compile the code once, for all processes that tests start
	@$(BIN)/python -m compileall -q src pipelines tests benchmarks

test: bytecode ## the tests that are not slow
	$(PYTEST) -m "not slow and not images"

test-slow: bytecode ## the slow tests: random kills, exhaustive corruption, full-size models
	$(PYTEST) -m "slow and not images" --hypothesis-profile exploring

lint: $(STAMP) ## style, types, import rules, Dockerfile, and that the committed YAML is what the code compiles to
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pipelines compile --check
	$(BIN)/hadolint docker/Dockerfile

format: $(STAMP) ## format the code, fix what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compile: $(STAMP) ## compile to the committed YAML, or for one cluster to build/compiled (REGISTRY=… TAG=… QUEUE=… SIZES=… SET=…)
	@$(SIZED); set -- "$$@" --registry "$$REGISTRY" --tag "$$TAG" --queue "$$QUEUE"; \
	$(BIN)/python -m pipelines compile "$$@" $(if $(REGISTRY)$(TAG)$(QUEUE)$(SIZES)$(SET),--output-dir build/compiled)

submit: $(STAMP) ## start a run on a cluster (ENDPOINT=… STORAGE=s3://… SOURCE=s3://… [PIPELINE=predict] [RUN=…] [PARAMS="a=1 b=2"] [SIZES=…] [SET="train.memory=48Gi"] [WAIT=1] [NO_CACHE=1])
	@set -- $${PIPELINE:+"$$PIPELINE"} --storage-uri "$$STORAGE" --source "$$SOURCE" $(if $(RUN),--run-id "$$RUN") $(if $(call on,$(NO_CACHE)),--no-cache); $(CLUSTER); \
	$(BIN)/python -m pipelines submit "$$@"

rerun: $(STAMP) ## run one step of a run again (STEP=… RUN=… STORAGE=… [PARAMS=…] [ENDPOINT=…: else on this machine])
	@set -- "$$STEP" --storage-uri "$$STORAGE" --run-id "$$RUN"; $(CLUSTER); \
	$(BIN)/python -m pipelines rerun "$$@"

status: $(STAMP) ## a run's progress, from object storage, and what its pods wait for (RUN=… STORAGE=… [NAMESPACE=…])
	@$(BIN)/python -m pipelines status --storage-uri "$$STORAGE" --run-id "$$RUN" --namespace "$$NAMESPACE"

IMAGES   := stage-data train-swin train-resnest export-probs average-probs
VERSION  := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE     = "$${REGISTRY:+$${REGISTRY%/}/}landseg-$(1):$${TAG:-$(VERSION)}"

# Build arguments; those that are empty here have their defaults in docker/Dockerfile.
BASE_IMAGE    ?=
FLAVOR        ?=
CUDA_ARCHS    ?=
MAX_JOBS      ?=
PIP_INDEX_URL ?=
PLATFORM      ?=
BUILD_ARGS    ?=

# DOCKER=podman: another program that builds and pushes. DOCKER=1, of `make demo`, means docker.
DOCKER ?=
ENGINE  = engine=$${DOCKER:-docker}; test "$$engine" != 1 || engine=docker

GIT        := git -c safe.directory='$(subst ','\'',$(CURDIR))'
# Labels: the commit and its time, so that a rebuild gets the same ones. Empty ones are left out.
BUILD       = set --; \
              for name in BASE_IMAGE FLAVOR CUDA_ARCHS MAX_JOBS; do \
                eval "value=\$$$$name"; test -z "$$value" || set -- "$$@" --build-arg "$$name=$$value"; done; \
              set -f; for pair in $$BUILD_ARGS; do set -- "$$@" --build-arg "$$pair"; done; set +f; \
              test -z "$$PIP_INDEX_URL" || set -- "$$@" --secret id=pip_index_url,env=PIP_INDEX_URL; \
              test -z "$$PLATFORM" || set -- "$$@" --platform "$$PLATFORM"; \
              source=$$($(GIT) config --get remote.origin.url | sed -n 's|^\(https://\)\([^@/]*@\)\{0,1\}|\1|p'); \
              revision=$$($(GIT) describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null); \
              created=$$($(GIT) log -1 --format=%cI 2>/dev/null); \
              base=$${BASE_IMAGE:-$$(sed -n 's/^ARG BASE_IMAGE=//p' docker/Dockerfile)}; \
              for label in "version=$(VERSION)" "source=$$source" "revision=$$revision" "created=$$created" "base.name=$$base"; do \
                case $$label in *=) ;; *) set -- "$$@" --label "org.opencontainers.image.$$label";; esac; done
build-images: ## build the five images ([REGISTRY=…] [TAG=…] [FLAVOR=cuda|cpu] [CUDA_ARCHS=…] [BASE_IMAGE=…] [PLATFORM=…] [PIP_INDEX_URL=…] [BUILD_ARGS="A=1 B=2"] [DOCKER=podman])
	@$(ENGINE); $(BUILD); for image in $(IMAGES); do \
	  DOCKER_BUILDKIT=1 "$$engine" build --file docker/Dockerfile "$$@" --target "$$image" --tag $(call IMAGE,$$image) . || { \
	    echo "$$image: not built, see above; the base is $$base: where docker.io is out of reach, name a mirror's or one on this machine with BASE_IMAGE=…" >&2; \
	    exit 1; }; done

push-images: ## push them to REGISTRY
	@test -n "$$REGISTRY" || { echo "REGISTRY: expected a registry the cluster can pull from, found none" >&2; exit 2; }
	@$(ENGINE); for image in $(IMAGES); do "$$engine" push $(call IMAGE,$$image) || exit; done

sbom: $(STAMP) ## list what is in each image, as CycloneDX in build/sbom
	$(BIN)/python docker/sbom.py $(foreach image,$(IMAGES),$(call IMAGE,$(image)))

test-images: $(STAMP) ## build the images with FLAVOR=cpu and test them; does nothing without a Docker engine
	@if docker version >/dev/null 2>&1; \
	then $(MAKE) build-images FLAVOR=cpu && $(BIN)/python -m pytest tests/images; \
	else echo "no Docker engine answers here: the images are not tested"; fi

deploy: $(STAMP) ## prepare a namespace of the cluster (OVERLAY=external-s3|in-cluster-storage|single-node|kueue|profile|profile-storage [NAMESPACE=…] [NETWORK_POLICY=none] [PULL_SECRET=…] [GPU_RESOURCE=amd.com/gpu] [DRY_RUN=1] [FORCE=1])
	@$(BIN)/python -m pipelines deploy "$$OVERLAY" --namespace "$$NAMESPACE" \
	  --network-policy "$$NETWORK_POLICY" --pull-secret "$$PULL_SECRET" --gpu-resource "$$GPU_RESOURCE" $(if $(call on,$(DRY_RUN)),--dry-run) $(if $(call on,$(FORCE)),--force)

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --build-constraints requirements/build.in --generate-hashes
# GDAL reads what people bring; the images with torch only read what was staged.
STAGING_ONLY := $(foreach package,pyogrio rasterio affine attrs certifi click click-plugins cligj,--no-emit-package $(package))
lock: ## lock the requirements again after a change in pyproject.toml (needs uv)
	$(COMPILE) --all-extras pyproject.toml -o requirements/dev.txt
	$(COMPILE) --no-annotate pyproject.toml -o requirements/data.txt
	$(COMPILE) --no-annotate --extra train --no-emit-package mmcv $(STAGING_ONLY) pyproject.toml -o requirements/train.txt
	$(COMPILE) --no-annotate requirements/nvcc.in -o requirements/nvcc.txt
	$(COMPILE) --no-annotate --no-deps requirements/mmcv-full.in -o requirements/mmcv-full.txt
	$(COMPILE) --no-annotate --no-deps requirements/build.in -o requirements/build.txt

clean: ## delete what was built, except .venv
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
