# Everything that is done with this tree. `make demo` and `make test` need nothing but Debian and Rust: what else they lack
# they install, and say so.
#
# The unsealer refuses programs and folders that a group can write, so whatever is made here is made with umask 022.

SHELL := /bin/sh
PREFIX ?= /usr/local
CARGO ?= cargo
DENY_VERSION := 0.20.2
DENY := .cache/tools/bin/cargo-deny
FUZZ_VERSION := 0.13.2
FUZZ := .cache/tools/bin/cargo-fuzz

# What the build needs, and what the tests need beside it.
BUILD_PACKAGES := gcc libc6-dev libtss2-dev pkg-config
TEST_PACKAGES := age docker-compose faketime openssl procps python3 python3-argon2 python3-cryptography python3-kubernetes \
	python3-pip python3-prometheus-client python3-seccomp python3-yaml swtpm systemd tpm2-tools util-linux
# What libFuzzer is built with.
FUZZ_PACKAGES := g++
# What the benchmark compares with.
BENCH_PACKAGES := clevis clevis-tpm2

PROGRAMS := kdf-file kdf-software kdf-tpm
BIN := $(DESTDIR)$(PREFIX)/bin
LIBEXEC := $(DESTDIR)$(PREFIX)/libexec/unsealer
SHARE := $(DESTDIR)$(PREFIX)/share
# Where systemd looks: below /usr/local, /usr and /etc.
SYSTEMD_UNITS ?= $(PREFIX)/lib/systemd/system
SYSUSERS ?= $(PREFIX)/lib/sysusers.d
TMPFILES ?= $(PREFIX)/lib/tmpfiles.d

.PHONY: help demo test lint fuzz fuzz-short bench soak docs build setup setup-build setup-fuzz install uninstall clean

help:
	@echo "make demo      the main job, step by step, on a real OpenBao"
	@echo "make test      every test"
	@echo "make lint      rustfmt, clippy, cargo-deny"
	@echo "make fuzz      every parser of untrusted bytes, long (FUZZ_SECONDS=600 for each, FUZZ_TARGETS=all)"
	@echo "make fuzz-short  the same in about a minute and a half, once it is built"
	@echo "make bench     the budgets, measured"
	@echo "make soak      the tests again and again, with more cases (SOAK_ROUNDS=5)"
	@echo "make docs      the documentation of the crates, in target/doc"
	@echo "make install   PREFIX=/usr/local, DESTDIR=; with a unit for systemd, and the user it runs as"
	@echo "make uninstall what install put there; never keyrings, keys or configuration"
	@echo "make clean     what was built and downloaded"

setup-build:
	@scripts/setup-debian $(BUILD_PACKAGES)
	@scripts/check-rust
	@scripts/private-tree

setup: setup-build
	@scripts/setup-debian $(TEST_PACKAGES)
	@scripts/get-openbao

build: setup-build
	@umask 022 && $(CARGO) build --locked --workspace --bins --examples

demo: setup
	@umask 022 && $(CARGO) build --locked -p unsealer $(addprefix -p ,$(PROGRAMS))
	@scripts/demo

# libtss2 writes to stderr, in its own words, what the tests of kdf-tpm provoke.
test soak: export TSS2_LOG := all+none

test: setup build
	@umask 022 && $(CARGO) test --locked --workspace

$(DENY):
	@echo "installing cargo-deny $(DENY_VERSION) into .cache/tools, once"
	@umask 022 && $(CARGO) install --quiet --locked --debug --root .cache/tools cargo-deny@$(DENY_VERSION)

# The advisories of cargo-deny need a database from outside; licences, bans and sources do not.
lint: setup-build $(DENY)
	@umask 022 && $(CARGO) fmt --all --check
	@umask 022 && $(CARGO) clippy --quiet --locked --workspace --all-targets -- -D warnings
	@umask 022 && $(CARGO) clippy --quiet --locked -p kdf-api --no-default-features -- -D warnings
	@umask 022 && $(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	@umask 022 && $(CARGO) clippy --quiet --locked --manifest-path fuzz/Cargo.toml --target-dir target \
		--no-default-features --all-targets -- -D warnings
	@umask 022 && $(CARGO) fetch --quiet --locked
	@$(DENY) --log-level error --offline check --hide-inclusion-graph licenses bans sources >/dev/null || \
		$(DENY) --offline check licenses bans sources

$(FUZZ):
	@echo "installing cargo-fuzz $(FUZZ_VERSION) into .cache/tools, once"
	@umask 022 && $(CARGO) install --quiet --locked --debug --root .cache/tools cargo-fuzz@$(FUZZ_VERSION)

setup-fuzz: setup-build $(FUZZ)
	@scripts/setup-debian $(FUZZ_PACKAGES)

FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?=
fuzz: setup-fuzz
	@scripts/fuzz $(FUZZ_SECONDS) $(FUZZ_TARGETS)

fuzz-short: setup-fuzz
	@scripts/fuzz 2

bench: setup
	@scripts/setup-debian $(BENCH_PACKAGES)
	@umask 022 && $(CARGO) build --locked --release -p unsealer $(addprefix -p ,$(PROGRAMS)) -p unsealer-tests \
		--bin unsealer $(addprefix --bin ,$(PROGRAMS)) --bin empty --bin minimal-tpm --bin bench
	@target/release/bench

SOAK_ROUNDS ?= 5
soak: setup build
	@for round in $$(seq $(SOAK_ROUNDS)); do \
		echo "soak: round $$round of $(SOAK_ROUNDS)"; \
		umask 022 && PROPTEST_CASES=20000 EVERY_POINT=1 $(CARGO) test --quiet --locked --workspace || exit 1; \
	done

docs: setup-build
	@umask 022 && RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --locked --workspace --no-deps
	@echo "target/doc/kdf_api/index.html"

install: setup-build
	@umask 022 && $(CARGO) build --locked --release -p unsealer $(addprefix -p ,$(PROGRAMS))
	@umask 022 && install -d $(BIN) $(LIBEXEC) $(SHARE)/doc/unsealer/docs $(SHARE)/bash-completion/completions \
		$(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	install -m 755 target/release/unsealer $(BIN)/unsealer
	@for program in $(PROGRAMS); do \
		echo "install -m 755 target/release/$$program $(LIBEXEC)/$$program"; \
		install -m 755 target/release/$$program $(LIBEXEC)/$$program || exit 1; \
	done
	@umask 022 && target/release/unsealer completions bash > $(SHARE)/bash-completion/completions/unsealer
	@umask 022 && target/release/unsealer completions zsh > $(SHARE)/zsh/site-functions/_unsealer
	@umask 022 && target/release/unsealer completions fish > $(SHARE)/fish/vendor_completions.d/unsealer.fish
	@umask 022 && install -m 644 README.md CHANGELOG.md SECURITY.md LICENSE $(SHARE)/doc/unsealer/
	@umask 022 && install -m 644 docs/*.md $(SHARE)/doc/unsealer/docs/
	@umask 022 && for folder in compose compose/config container kubernetes prometheus; do \
		install -d $(SHARE)/doc/unsealer/packaging/$$folder && \
		find packaging/$$folder -maxdepth 1 -type f -exec install -m 644 {} $(SHARE)/doc/unsealer/packaging/$$folder/ \; || exit 1; \
	done
	@umask 022 && install -d $(DESTDIR)$(SYSTEMD_UNITS) $(DESTDIR)$(SYSUSERS) $(DESTDIR)$(TMPFILES)
	@umask 022 && sed 's|/usr/local/|$(PREFIX)/|' packaging/systemd/unsealer.service > $(DESTDIR)$(SYSTEMD_UNITS)/unsealer.service
	install -m 644 packaging/systemd/sysusers.d/unsealer.conf $(DESTDIR)$(SYSUSERS)/unsealer.conf
	install -m 644 packaging/systemd/tmpfiles.d/unsealer.conf $(DESTDIR)$(TMPFILES)/unsealer.conf

uninstall:
	rm -f $(BIN)/unsealer $(SHARE)/bash-completion/completions/unsealer $(SHARE)/zsh/site-functions/_unsealer \
		$(SHARE)/fish/vendor_completions.d/unsealer.fish
	rm -f $(DESTDIR)$(SYSTEMD_UNITS)/unsealer.service $(DESTDIR)$(SYSUSERS)/unsealer.conf \
		$(DESTDIR)$(TMPFILES)/unsealer.conf
	rm -rf $(LIBEXEC) $(SHARE)/doc/unsealer
	@echo "left alone: /etc/unsealer, /var/lib/unsealer and every key file"

clean:
	rm -rf target .cache
