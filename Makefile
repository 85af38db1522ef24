# One command each. What a machine lacks is installed by tests/setup.sh, from Debian's packages.

.PHONY: help run test deny bench faults deb

help: ## This list
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Builds and starts the daemon with a private Redis and simulated users; prints the console's address
	@bash tests/setup.sh run
	cargo run --release --locked -- demo

test: ## Formatting, lints, dependencies, documentation and all tests
	@bash tests/setup.sh test
	cargo fmt --check
	cargo deny --locked check --hide-inclusion-graph licenses bans sources
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --all-targets --locked --features otel -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --features otel
	@if cargo nextest --version >/dev/null 2>&1; then \
		echo cargo nextest run --locked --features otel && cargo nextest run --locked --features otel; \
	else \
		echo cargo test --locked --features otel && cargo test --locked --features otel; \
	fi

deny: ## Licences, bans and sources of all dependencies
	@bash tests/setup.sh deny
	cargo deny --locked check licenses bans sources

bench: ## All benches; their tables go to docs/PERFORMANCE.md
	@bash tests/setup.sh bench
	bash tests/bench/record.sh

faults: ## What clients see of each fault, as a table
	@bash tests/setup.sh bench
	cargo bench --locked --bench bench -- faults

deb: ## A package for Debian and Ubuntu, in target/debian
	@bash tests/setup.sh deb
	cargo build --release --locked
	$(MAKE) --no-print-directory deb-files KEYBEAT=target/release/keybeat
	cargo deb --locked --no-build --no-strip

# What the program says of itself, for the package.
.PHONY: deb-files
deb-files:
	mkdir -p target/deb/completions
	$(KEYBEAT) man target/deb/man >/dev/null
	$(KEYBEAT) completions bash >target/deb/completions/keybeat
	$(KEYBEAT) completions zsh >target/deb/completions/_keybeat
	$(KEYBEAT) completions fish >target/deb/completions/keybeat.fish
