# Short names for what is done every day; everything else is in `cargo xtask --help`.

# list the recipes
default:
    @just --list

# from a Containerfile to a machine that upgrades itself and goes back
demo *ARGS:
    cargo xtask demo {{ARGS}}

# all tests; `just test unit` is the quick part, `just test vm --scenario lifecycle` one scenario
test *ARGS:
    cargo xtask test {{ARGS}}

# selkie beside its peers; `just bench --write` renews docs/benchmarks.md
bench *ARGS:
    cargo xtask bench {{ARGS}}

# build the images of containerfiles/ into target/lab/containers
images *ARGS:
    cargo xtask images {{ARGS}}

# what CI checks before it tests
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- --deny warnings

# format everything
fmt:
    cargo fmt --all
