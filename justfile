# The jobs of this repository. `just` is a convenience: the two that everybody needs are cargo aliases as well
# (`cargo bench-all`, `cargo test-all`; .cargo/config.toml).

# list the jobs
default:
    @just --list --unsorted

# train the whole matrix and leave tables (the laptop profile; the paper's with CUDA); goes on where it stopped
bench-all *OPTIONS:
    cargo bench-all {{OPTIONS}}

# every method once
smoke *OPTIONS:
    cargo bench-all --profile smoke {{OPTIONS}}

# the paper's ablation table at laptop size
ablations *OPTIONS:
    cargo bench-all --profile ablations-laptop {{OPTIONS}}

# every method's learning rate with the same effort, at laptop size; leaves a profile with what was chosen; a quarter of an hour
tune *OPTIONS:
    cargo relora tune --profile laptop {{OPTIONS}}

# all tests
test *OPTIONS:
    cargo test-all {{OPTIONS}}

# how far each recording of the official code is from ours (optionally a part of a case's name)
golden *CASE:
    cargo test --package harness --test golden -- {{CASE}}

# whether the golden test notices when a rule is broken, one at a time; about twenty minutes (optionally a part of a rule)
golden-mutants *RULE:
    cargo run --package harness --example golden-mutants -- {{RULE}}

# Hugging Face's own libraries load what we write, and we what they write (needs Python; the first time a large download)
test-hf:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build -p harness
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    environment="$target/test-hf"
    [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --requirement tests/hf/requirements.txt
    "$environment/bin/python" tests/hf/ecosystem.py "$target/debug/relora"

# how long the singular values of all updates of a 350M model would take on one core (two of its 168 matrices are taken apart)
spectra-time:
    cargo bench --workspace --bench statistics --profile dev -- spectra

# formatting and lints, warnings denied
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# benchmarks of the training step, the merge, the loader, the tokenizer and the spectra (criterion; optionally a name)
bench *OPTIONS:
    cargo bench --workspace --bench '*' --profile dev -- {{OPTIONS}}

# tokens per second, memory and time to the first step beside PyTorch's, in turn; about an hour (needs Python; a large download)
bench-peers *OPTIONS:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build -p harness
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    environment="$target/bench-peers"
    [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --requirement tests/peers/requirements.txt
    "$environment/bin/python" tests/peers/compare.py "$target/debug/relora" {{OPTIONS}}

# launches, memory and host time of training on CUDA, without a GPU; an hour (needs Python, a C compiler; a large download)
dry-runs *OPTIONS:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build -p harness
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    tests/stand_in/run --prepare
    python3 tests/stand_in/dry_runs.py "$target/debug/relora" {{OPTIONS}}

# every cell of the paper's profile on CUDA, six steps of each, without a GPU (the same needs; some gigabytes of disk)
dry-paper *OPTIONS:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build -p harness
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    tests/stand_in/run --prepare
    python3 tests/stand_in/dry_paper.py "$target/debug/relora" --out "$target/dry-paper" {{OPTIONS}}

# a folder that measures relora on a bare machine with an NVIDIA GPU: target/gpu-bundle and its archive (the same needs)
gpu-bundle:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build -p harness
    golden=$(cargo test -p harness --test golden --no-run --message-format json | sed -n 's/.*"name":"golden".*"executable":"\([^"]*\)".*/\1/p')
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    tests/gpu/bundle "$target/debug/relora" "$golden"

# one Markdown file about the suite that was worked on last
report *OPTIONS:
    cargo relora report {{OPTIONS}}

# what is found on this machine, what is missing and how to get it
doctor *OPTIONS:
    cargo relora doctor {{OPTIONS}}

# licences, advisories, duplicates and origins of all dependencies (needs cargo-deny)
deny:
    cargo deny --all-features check

# what continuous integration runs
ci:
    .ci/run
