# The commands of daily work. `make help` lists them.
#
# Everything compiles in one profile and in one build directory outside the clone, so that the half hour
# that the dependencies take is spent once for the demo, the tests and every later clone.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export TESSERA_CACHE ?= $(HOME)/.cache/tessera
export CARGO_TARGET_DIR ?= $(TESSERA_CACHE)/target

TESSERA := $(CARGO_TARGET_DIR)/debug/tessera
# The OHIF viewer as bootstrap unpacks it; without it everything works but the viewer.
VIEWER ?= $(TESSERA_CACHE)/ohif/current/dist
# Options of the demo's own: make demo ARGS=--once, make demo DATA=/path/to/dicom
ARGS ?=
DATA ?=

.PHONY: help build demo test test-browser bench bench-ingest bench-query bench-fetch lint fmt doc deny bootstrap

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## Build the tessera program
	@tests/bootstrap.sh build
	cargo build --locked --workspace --bins
	@echo "The program is $(TESSERA)"

demo: ## Three hospitals and a regulator on this machine (ARGS=--once, DATA=DIR)
	@tests/bootstrap.sh demo
	cargo build --locked --workspace --bins
	@if [ -d "$(VIEWER)" ]; then export TESSERA_VIEWER_DIR="$(VIEWER)"; fi; \
	exec $(TESSERA) demo $(if $(DATA),--data "$(DATA)") $(ARGS)

# Cheap failures first: formatting, the house rules, lints; then everything is built and run.
test: ## Everything that continuous integration checks
	@tests/bootstrap.sh test
	cargo fmt --all --check
	@cargo fetch --locked --quiet --target "$$(rustc -vV | sed -n 's/^host: //p')"
	cargo test --locked --quiet --workspace --test tidy
	$(MAKE) --no-print-directory clippy doc simnet-alone
	cargo build --locked --workspace --all-targets
	@tests/run.sh workspace

test-browser: ## The browser's tests alone (Chromium and Playwright)
	@tests/bootstrap.sh browser
	cargo build --locked --workspace --bins
	@tests/run.sh browser

# Measurements print what they measured and on what; BENCHMARKS.md records them.
bench-ingest: ## Objects a second over DICOM, beside DCMTK's storescp on the same files
bench-query: ## A known patient's history among a million records
bench-fetch: ## Fetching between two nodes on loopback
bench-ingest bench-query bench-fetch:
	@tests/bootstrap.sh bench
	cargo build --locked --workspace --bins
	$(TESSERA) bench $(@:bench-%=%) $(ARGS)

bench: bench-ingest bench-query bench-fetch ## All measurements

lint: ## Formatting, house rules, clippy, documentation
	@tests/bootstrap.sh build
	cargo fmt --all --check
	@cargo fetch --locked --quiet --target "$$(rustc -vV | sed -n 's/^host: //p')"
	cargo test --locked --quiet --workspace --test tidy
	$(MAKE) --no-print-directory clippy doc simnet-alone

.PHONY: clippy simnet-alone
clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --workspace --no-deps --document-private-items --quiet

# The simulator must build without sockets: what it cannot run is in the wrong place.
simnet-alone:
	cargo check --locked -p tessera-simnet

fmt: ## Format the code
	cargo fmt --all

deny: ## Licences, sources and advisories of the dependencies (needs cargo-deny and, for advisories, a network)
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check; \
	else echo "cargo-deny is missing; install it with: cargo install --locked cargo-deny"; exit 1; fi

bootstrap: ## Install what the tests need and say what could not be done
	@tests/bootstrap.sh test
