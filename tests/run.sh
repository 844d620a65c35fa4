#!/usr/bin/env bash
# Runs the built tests: `run.sh workspace` or `run.sh browser`. nextest where it is installed, else cargo test.
# Bootstrap has run before; what it could not install for the browser is said here again, not hidden.
set -eu
cache=${TESSERA_CACHE:-$HOME/.cache/tessera}
browser_missing=$(cat "$cache/state/browser-missing" 2>/dev/null || true)

# Nodes refuse images on a nearly full disk, as they must; dozens of tests would fail for that one reason.
free_mb=$(df --output=avail -m "${TMPDIR:-/tmp}" | tail -n 1)
if [ "$free_mb" -lt 8192 ]; then
    echo "The tests need 8192 MB free in ${TMPDIR:-/tmp}, and $free_mb MB are: make room, or name another disk with TMPDIR." >&2
    exit 1
fi

if [ "$1" = browser ]; then
    [ -z "$browser_missing" ] || { echo "The browser's tests cannot run: $browser_missing" >&2; exit 1; }
    if cargo nextest --version >/dev/null 2>&1; then
        exec cargo nextest run --locked --ignore-default-filter -p tessera-tests -E 'test(/^browser_/)'
    fi
    exec cargo test --locked -p tessera-tests --test browser -- --test-threads=1
fi

if [ -n "$browser_missing" ]; then
    # Last of all, where it is read.
    trap 'echo "Without the browser'"'"'s tests: $browser_missing" >&2' EXIT
    filter=()
else
    filter=(--ignore-default-filter)
fi
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --workspace "${filter[@]}"
    exit
fi
echo "cargo-nextest is missing (cargo install --locked cargo-nextest): running the same tests with cargo test." >&2
cargo test --locked --workspace --exclude tessera-tests
# One at a time: each of these starts several processes.
if [ -n "$browser_missing" ]; then
    mapfile -t binaries < <(find tests/tests -maxdepth 1 -name '*.rs' ! -name 'browser*' -printf '--test\n%f\n' | sed 's/\.rs$//')
    cargo test --locked -p tessera-tests --lib "${binaries[@]}" -- --test-threads=1
else
    cargo test --locked -p tessera-tests -- --test-threads=1
fi
