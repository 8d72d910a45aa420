# What people and CI run. `make` alone lists it. Everything built lands in one cache folder, outside of the checkout.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test e2e cluster cluster-down images simulate soak fuzz lint fmt bench bench-bringup bench-cni bench-burst deny tools tools-path \
  release bin-path generate clean-cache prereqs prereqs-cluster
# Targets follow each other; cargo and go use all cores by themselves.
.NOTPARALLEL:

CACHE := $(or $(CADASTRE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cadastre)
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CARGO_TERM_PROGRESS_WHEN ?= auto

TOOLS := $(shell CADASTRE_CACHE='$(CACHE)' tests/tools/build.sh path)
# One folder for each checkout, as several may share the cache.
BIN := $(CARGO_TARGET_DIR)/bin-$(shell printf '%s' '$(CURDIR)' | sha256sum | cut -c1-8)
export CADASTRE_TOOLS := $(TOOLS)
export CADASTRE_BIN := $(BIN)
export CADASTRE_CACHE := $(CACHE)

HOST = $(shell rustc -vV | sed -n 's/^host: //p')
# The name cargo gives the setting of flags for one target, such as CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS.
HOST_RUSTFLAGS = CARGO_TARGET_$(shell echo '$(HOST)' | tr 'a-z-' 'A-Z_')_RUSTFLAGS
CARGO_DENY_VERSION := 0.19.0
CARGO_FUZZ_VERSION := 0.13.2
FUZZ_TARGETS = $(or $(TARGETS),$(notdir $(wildcard tests/fuzz/corpus/*)))

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: prereqs-cluster tools release ## Show it at work here, on two nodes if this machine can have them: pods get addresses, a mode change is refused (needs root)
	@# Nodes need them; where there can be none the demo says so.
	@if grep -q '^[0-9]*:[^:]*\bmemory\b' /proc/self/cgroup; then tests/tools/images.sh '$(BIN)' > /dev/null; fi
	@cargo run -q -p cadastre-tests --bin demo

test: prereqs-cluster tools ## Run everything: format, clippy, all tests, also those on a real API server (needs root)
	@tests/run.sh

e2e: prereqs-cluster tools images ## Install the chart on two real nodes, with kubelet and containerd, and reboot one (needs root)
	@cargo test -q -p cadastre-tests --test e2e -- --nocapture

cluster: prereqs-cluster tools images ## Bring up a cluster of two nodes on this machine, and print how to use it (needs root)
	@cargo run -q -p cadastre-tests --bin cluster -- up

cluster-down: ## Take it down; nothing of it is left
	@cargo run -q -p cadastre-tests --bin cluster -- down

lint: ## Check format and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

fmt: ## Format the Rust code
	cargo fmt --all

simulate: ## Run the operators' simulation under many seeds: make simulate SEEDS=1000000 (default 100,000), for a release
	CADASTRE_SEEDS='$(or $(SEEDS),100000)' cargo test --release -p cadastre-engine --test simulation -- --nocapture | \
	  awk '/^seed / { if (++n % 10000 == 0) print n " schedules done"; next } { print }'

soak: prereqs-cluster tools images ## Kill agents, replace the plugin, make faults under churn of pods, for a release: make soak KILLS=1000 ADDS=10000 CHURN=1800 (the defaults)
	CADASTRE_KILLS='$(or $(KILLS),1000)' CADASTRE_ADDS='$(or $(ADDS),10000)' \
	  cargo test -p cadastre-tests --test agent_load -- --nocapture
	CADASTRE_CHURN='$(or $(CHURN),1800)' cargo test -p cadastre-tests --test churn -- --nocapture

fuzz: export CARGO_TARGET_DIR := $(CARGO_TARGET_DIR)/fuzz
# Ours is little of what is compiled: optimised less, it is built in half the time.
fuzz: export CARGO_PROFILE_RELEASE_LTO := off
fuzz: export CARGO_PROFILE_RELEASE_OPT_LEVEL := 1
# So that a panic says where.
fuzz: export CARGO_PROFILE_RELEASE_STRIP := none
fuzz: ## Feed arbitrary bytes to plugin and agent: make fuzz FUZZ_SECONDS=600 (of each target, default 60) TARGETS="agent_socket"
	@command -v c++ >/dev/null || { echo 'fuzz: libFuzzer is C++: please install a C++ compiler (Debian: g++)' >&2; exit 1; }
	@[ -x '$(CACHE)/cargo/bin/cargo-fuzz' ] || \
	  cargo install cargo-fuzz --version $(CARGO_FUZZ_VERSION) --locked --root '$(CACHE)/cargo'
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p "$(CACHE)/fuzz/$$target"; echo "==> $$target"; \
	  PATH="$(CACHE)/cargo/bin:$$PATH" cargo fuzz run --sanitizer none --codegen-units 16 --fuzz-dir tests/fuzz --features libfuzzer \
	    "$$target" "$(CACHE)/fuzz/$$target" "tests/fuzz/corpus/$$target" -- -max_total_time=$(or $(FUZZ_SECONDS),60) \
	    -artifact_prefix="$(CACHE)/fuzz/$$target-" -timeout=20 -malloc_limit_mb=256 -print_final_stats=1; \
	done

bench: ## Measure the allocators
	cargo bench -p cadastre-core

bench-bringup: prereqs tools release ## Measure node bring-up, restart and memory beside kube-controller-manager (ROUNDS= SIZES=)
	@cargo run -q --release -p cadastre-tests --bin bench-bringup

bench-cni: prereqs tools release ## Measure an address for a pod, plugin and agent, beside host-local (ROUNDS= HELD= NETWORK=)
	@cargo run -q --release -p cadastre-tests --bin bench-cni

bench-burst: prereqs-cluster tools images ## Measure 110 pods at once on one node, beside host-local (ROUNDS= PODS=)
	@cargo build -q --release -p cadastre-tests --bin metered-plugin
	@cargo run -q --release -p cadastre-tests --bin bench-burst

deny: ## Check licences, duplicate versions and advisories of the dependencies (installs cargo-deny into the cache)
	@[ -x '$(CACHE)/cargo/bin/cargo-deny' ] || \
	  cargo install cargo-deny --version $(CARGO_DENY_VERSION) --locked --root '$(CACHE)/cargo'
	'$(CACHE)/cargo/bin/cargo-deny' check bans licenses sources
	@# Last, as it needs the advisory database from GitHub.
	'$(CACHE)/cargo/bin/cargo-deny' check advisories

generate: ## Write the generated files anew (CRDs, values.schema.json, tables); a test diffs them
	@if [ -x tests/generate.sh ]; then tests/generate.sh; else echo 'tests/generate.sh does not exist yet' >&2; exit 1; fi

tools: prereqs ## Build what tests need beside our code: Kubernetes, etcd, Helm, CNI plugins (once, about 8 min)
	@tests/tools/build.sh

tools-path: ## Print the folder that holds the tools
	@echo '$(TOOLS)'

# Operator, agent and plugin are static: their images have nothing else in them, and the plugin starts faster.
release: export $(HOST_RUSTFLAGS) := -C target-feature=+crt-static
release: prereqs ## Build the release binaries: operator, agent and the CNI plugin, all static
	@mkdir -p '$(BIN)'; exec 9>'$(CARGO_TARGET_DIR)/.release.lock'; flock 9; \
	  cargo build --release --target '$(HOST)' -p cadastre-operator -p cadastre-agent; \
	  cargo build --profile cni --target '$(HOST)' -p cadastre-cni; \
	  built='$(CARGO_TARGET_DIR)/$(HOST)'; \
	  tests/tools/install.sh '$(BIN)' "$$built"/release/cadastre-{operator,agent} "$$built/cni/cadastre"

images: release ## Build the images with buildah, podman or docker: OCI archives beside the release binaries
	@tests/tools/images.sh '$(BIN)'

bin-path: ## Print the folder that holds the release binaries
	@echo '$(BIN)'

clean-cache: ## Remove everything that was built, tools too
	@# Go writes its modules read-only.
	@[ ! -d '$(CACHE)/go' ] || chmod -R u+w '$(CACHE)/go'
	rm -rf '$(CACHE)'

prereqs:
	@tests/tools/prereqs.sh

prereqs-cluster:
	@tests/tools/prereqs.sh cluster
