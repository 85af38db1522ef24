# One command each. tests/setup.sh installs from Debian's packages what the machine lacks.

.PHONY: help run test test-servers check soak deny bench faults settings clients deb dist

help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Build and start the daemon with a private Redis and simulated users; print the console's address
	@bash tests/setup.sh run
	@echo "make run: building keybeat; the first time takes about three minutes on two cores"
	cargo run --profile quick --locked -- demo

test: ## Every check and every test; print how long each part took
	@bash tests/run.sh test

SERVERS ?= redis-7.4 redis-8.2 valkey-9.1
test-servers: ## The tests of detection and faults on other servers: make test-servers SERVERS="redis-8.2"
	@bash tests/run.sh servers $(SERVERS)

check: ## Format, lints and unit tests
	@bash tests/run.sh check

SECONDS ?= 60
soak: ## Run the simulation with fresh random seeds: make soak SECONDS=600
	KEYBEAT_SIM_SECONDS=$(SECONDS) cargo test --locked --features otel --test sim fresh -- --nocapture

deny: ## Check the licences, bans and sources of all dependencies
	@bash tests/run.sh deny

bench: ## Run all benches and write their tables to docs/PERFORMANCE.md
	@bash tests/setup.sh bench
	bash tests/bench/record.sh

clients: ## Test the JavaScript, Python and Rust clients as packages, with the conformance suite
	@bash tests/setup.sh pypi
	@bash tests/clients/setup.sh
	cargo build --locked --features otel --profile test --bins --examples
	bash tests/clients/run.sh target/debug/keybeat

faults: ## Print what clients see of each fault, as a table
	@bash tests/setup.sh bench
	cargo bench --locked --bench bench -- faults

settings: ## Write the arguments, variables, defaults and texts of --help into docs/SETTINGS.md
	KEYBEAT_WRITE_SETTINGS=1 cargo test --locked --features otel --lib settings_page

deb: ## Build a package for Debian and Ubuntu, in target/debian
	@bash tests/setup.sh deb
	cargo build --release --locked
	bash packaging/deb.sh target/release/keybeat target/debian

dist: ## Build everything that can be published, in target/dist, and try each package in an empty folder
	@bash tests/setup.sh dist
	cargo build --release --locked
	rm -rf target/dist
	bash packaging/build.sh target/release/keybeat target/dist
	bash packaging/try.sh target/dist
