# Everything a person or CI does with this tree. One build profile serves demo, tests and benchmarks, so nothing is
# compiled twice. Set CARGO_TARGET_DIR to keep the build outside the tree.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/aitbc
TOOLS := $(CACHE)/tools
VENV := $(CACHE)/venv
MODELS := $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/aitbc/models
TARGET := $(or $(CARGO_TARGET_DIR),target)
AITBC := $(TARGET)/debug/aitbc

# ccache halves the second cold build: RocksDB and llama.cpp are C++. Looked for at each step and not once, since the
# first step may install it, and a compiler that changes between two steps builds all of C++ again.
BASE_CC := $(or $(filter-out cc default ccache,$(CC)),cc)
BASE_CXX := $(or $(filter-out g++ default ccache,$(CXX)),c++)
WITH_CCACHE = $(shell command -v ccache >/dev/null && echo "ccache ")
export CC = $(WITH_CCACHE)$(BASE_CC)
export CXX = $(WITH_CCACHE)$(BASE_CXX)
export CMAKE_C_COMPILER_LAUNCHER = $(strip $(WITH_CCACHE))
export CMAKE_CXX_COMPILER_LAUNCHER = $(strip $(WITH_CCACHE))
export PATH := $(TOOLS)/bin:$(PATH)

.PHONY: help setup packages tpm-packages lab-packages venv build model demo testnet test soak lint bench concrete docs clean

help: ## Show what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: packages venv build model ## Install what building and testing need, build, fetch the small model

# Debian packages, where apt-get is and something is missing; elsewhere the missing tools are named.
packages:
	@missing=(); \
	for tool in cmake clang pkg-config ccache c++ python3 protoc; do command -v $$tool >/dev/null || missing+=($$tool); done; \
	{ ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* /usr/lib64/libclang*.so* 2>/dev/null || true; } | grep -q . \
		|| [ "$$(uname)" = Darwin ] || missing+=(libclang); \
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv); \
	[ $${#missing[@]} -eq 0 ] && exit 0; \
	echo "missing: $${missing[*]}"; \
	if ! command -v apt-get >/dev/null; then \
		echo "install them with your system's package manager, then run make again" >&2; exit 1; \
	fi; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	export DEBIAN_FRONTEND=noninteractive; \
	$$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends \
		build-essential cmake clang libclang-dev pkg-config ccache protobuf-compiler python3 python3-venv python3-pip ca-certificates

# What the NAT laboratory, the Docker testnet and the GPU kernels (a software Vulkan, lavapipe) need, where packages can be installed unasked. Their tests say what is
# missing elsewhere.
lab-packages:
	@command -v apt-get >/dev/null && [ "$$(uname)" = Linux ] || exit 0; \
	missing=(); \
	[ -x /usr/sbin/nft ] || command -v nft >/dev/null || missing+=(nftables); \
	[ -x /usr/sbin/ip ] || command -v ip >/dev/null || missing+=(iproute2); \
	ls /usr/share/vulkan/icd.d/*.json >/dev/null 2>&1 || missing+=(mesa-vulkan-drivers); \
	if docker info >/dev/null 2>&1; then \
		command -v debootstrap >/dev/null || missing+=(debootstrap); \
		docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || missing+=(docker-compose); \
	fi; \
	[ $${#missing[@]} -eq 0 ] && exit 0; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo --non-interactive"; \
	export DEBIAN_FRONTEND=noninteractive; \
	{ $$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends $${missing[@]}; } \
		|| echo "not installed: $${missing[*]}" >&2

# The OpenAI client that the tests drive the API with.
venv: $(VENV)/.openai
$(VENV)/.openai: tests/python/requirements.txt | packages
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement tests/python/requirements.txt
	touch $@

# What evidence of TPMs needs: tpm2-tss to build with, a software TPM to test with, where packages can be installed unasked.
# Without the first, aitbc is built without TPM support and says so.
tpm-packages:
	@command -v apt-get >/dev/null && [ "$$(uname)" = Linux ] || exit 0; \
	missing=(); \
	pkg-config --exists tss2-esys || missing+=(libtss2-dev); \
	command -v swtpm >/dev/null || missing+=(swtpm); \
	command -v swtpm_setup >/dev/null || missing+=(swtpm-tools); \
	[ $${#missing[@]} -eq 0 ] && exit 0; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo --non-interactive"; \
	export DEBIAN_FRONTEND=noninteractive; \
	{ $$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends $${missing[@]}; } \
		|| echo "not installed: $${missing[*]}; aitbc is built without what needs them" >&2

# Looked at in each step, since the first may install what it takes.
TPM = $(shell pkg-config --exists tss2-esys tss2-mu && { command -v swtpm_setup >/dev/null && echo --features aitbc-node/tpm,aitbc-tests/tpm || echo --features aitbc-node/tpm; })

build: packages tpm-packages
	cargo build --workspace --all-targets $(TPM)

model: build
	$(AITBC) models pull smollm2:135m

demo: model ## Build, fetch the model, and run the main job between four nodes
	$(AITBC) demo

testnet: model lab-packages ## Bring up five nodes behind four kinds of NAT in Docker
	AITBC=$(abspath $(AITBC)) testnet/up

test: setup lab-packages ## Everything that must pass
	export AITBC_TEST_MODEL="$$($(AITBC) --json models show smollm2:135m | python3 -c 'import json,sys; print(json.load(sys.stdin)["installed"])')"; \
	export AITBC_TEST_PYTHON=$(VENV)/bin/python; \
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --workspace $(TPM); else cargo test --workspace $(TPM); fi
	cargo test --workspace --doc --quiet $(TPM)

soak: setup ## What takes long: a thousand kills in the middle of jobs, ten thousand seeds of the simulated ledgers
	export AITBC_KILLS=1000 AITBC_SIMULATION_SEEDS=10000; \
	if cargo nextest --version >/dev/null 2>&1; \
		then cargo nextest run --workspace $(TPM) -E 'binary(kills) or test(market::tests::simulation)'; \
		else cargo test --workspace $(TPM) --test kills && cargo test --package aitbc-node --lib market::tests::simulation; fi

lint: packages tpm-packages $(TOOLS)/bin/cargo-deny ## Formatting, clippy, licences and sources of dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(TPM) -- --deny warnings
	RUSTDOCFLAGS="--deny warnings --allow rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --quiet $(TPM)
	cargo fetch --quiet --locked
	cargo-deny --offline --log-level error check bans licenses sources

$(TOOLS)/bin/cargo-deny:
	CARGO_TARGET_DIR=$(CACHE)/tools-target cargo install --quiet --locked --root $(TOOLS) cargo-deny

# The node as users get it, optimised, on the dependencies that everything shares.
OPTIMISED := --profile dev --config profile.dev.package.aitbc-node.opt-level=3

bench: setup ## Speed and memory next to their goals
	cargo build $(OPTIMISED) --package aitbc-node --bin aitbc $(if $(TPM),--features aitbc-node/tpm)
	export AITBC_TEST_MODEL="$$($(AITBC) --json models show smollm2:135m | python3 -c 'import json,sys; print(json.load(sys.stdin)["installed"])')"; \
	export AITBC_BENCH_CONCRETE_PYTHON="$$($(MAKE) --silent --no-print-directory concrete)"; \
	cargo bench $(OPTIMISED) --workspace $(TPM)

# Says where Concrete ML is installed, and nothing where it cannot be: it wants an old Python and some gigabytes.
CONCRETE := $(CACHE)/concrete-ml
concrete:
	@if ! $(CONCRETE)/bin/python -c 'import concrete.ml' >/dev/null 2>&1; then \
		python3 -c 'import sys; sys.exit(not (3, 8) <= sys.version_info < (3, 13))' && python3 -m venv $(CONCRETE) \
			&& $(CONCRETE)/bin/pip install --quiet "concrete-ml==1.9.0" >&2 || true; \
	fi; \
	if $(CONCRETE)/bin/python -c 'import concrete.ml' >/dev/null 2>&1; then echo $(CONCRETE)/bin/python; fi

docs: $(TOOLS)/bin/mdbook ## Build the book and the API documentation
	mdbook build docs
	cargo doc --workspace --no-deps --document-private-items

$(TOOLS)/bin/mdbook:
	CARGO_TARGET_DIR=$(CACHE)/tools-target cargo install --quiet --locked --root $(TOOLS) mdbook

clean: ## Remove what was built in this tree
	cargo clean
