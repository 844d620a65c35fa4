#!/usr/bin/env bash
# Checks for what a command needs and installs what is missing: `bootstrap.sh build|demo|bench|test|browser`.
#
# Made for Debian 12; elsewhere it says what to install by hand. It never asks anything, may be run any number of
# times, costs a fraction of a second when all is there, and says each thing that it does, or cannot do, in one line.
# Exits 1 only if something is missing without which the command cannot work at all.
set -u
export DEBIAN_FRONTEND=noninteractive
here=$(cd "$(dirname "$0")" && pwd)
cache=${TESSERA_CACHE:-$HOME/.cache/tessera}
ohif_version=3.12.10
# The newest that runs on Debian 12's Node.js 18.
playwright_version=1.61.1
mkdir -p "$cache/state" "$cache/logs"

say() { printf 'bootstrap: %s\n' "$*"; }
fail() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command with its output in a log; on failure the caller says what it means.
logged() { # name, command...
    local log="$cache/logs/$1.log"
    shift
    "$@" >"$log" 2>&1 </dev/null
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    have apt-get && { [ "$(id -u)" = 0 ] || { have sudo && sudo -n true 2>/dev/null; }; }
}

# Installs Debian packages in one go; false, with the command to run by hand in $advice, if that is not possible.
advice=
install_packages() { # package...
    advice="sudo apt-get install --no-install-recommends -y $*"
    may_install || return 1
    say "installing $* (log: $cache/logs/apt.log)"
    logged apt as_root apt-get update -q
    logged apt as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# libclang itself; libclang-cpp, which Mesa and others bring along, is another library and does not serve.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    { compgen -G '/usr/lib/llvm-*/lib/libclang*.so*'; ldconfig -p 2>/dev/null; } |
        grep -qE '(^|/|\s)libclang(-[0-9.]+)?\.so'
}

# What compiles the program: a Rust toolchain, a C++ compiler, libclang for RocksDB's bindings.
compilers() {
    have cargo || fail "there is no Rust toolchain: install the stable one from https://rustup.rs, then run this again"
    local minimum have_version
    minimum=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
    have_version=$(cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$minimum" "$have_version" | sort -V | head -n 1)" = "$minimum" ] ||
        fail "Rust $have_version is too old, $minimum is needed: run 'rustup update stable'"
    claim_build_directory
    local missing=()
    have g++ || missing+=(g++)
    have_libclang || missing+=(libclang-dev)
    [ ${#missing[@]} = 0 ] && return 0
    install_packages "${missing[@]}" || fail "missing to compile: ${missing[*]}. Install with: $advice"
}

# Cargo tells clones that share a build directory apart by nothing but the times of their files: what another clone
# has built since would pass for this one's.
claim_build_directory() {
    local target=${CARGO_TARGET_DIR:-$cache/target} root
    root=$(cd "$here/.." && pwd)
    [ "$(cat "$target/last-clone" 2>/dev/null)" = "$root" ] && return 0
    mkdir -p "$target"
    find "$root" -name '*.rs' -not -path "$root/target/*" -exec touch {} +
    printf '%s\n' "$root" >"$target/last-clone"
}

dcmtk() {
    have storescu && have dcmdump && have storescp && return 0
    install_packages dcmtk || fail "the tests send real DICOM with DCMTK, which is missing. Install with: $advice"
}

# Strangers with certificates of their own knock at the core's port; pages are fetched, and processes killed.
small_tools() {
    local missing=()
    have openssl || missing+=(openssl)
    have curl || missing+=(curl)
    [ -x /bin/kill ] || [ -x /usr/bin/kill ] || missing+=(procps)
    [ ${#missing[@]} = 0 ] && return 0
    install_packages "${missing[@]}" || fail "the tests need ${missing[*]}. Install with: $advice"
}

# A toolchain of rustup's minimal profile lacks them.
cargo_tools() {
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return 0
    say "adding rustfmt and clippy to the Rust toolchain"
    have rustup && logged rustup rustup component add rustfmt clippy && return 0
    fail "the tests need cargo fmt and cargo clippy. Install them: rustup component add rustfmt clippy (or Debian's packages rustfmt and rust-clippy)"
}

# A virtual environment with the pinned clients; the stamp holds the requirements that it was made from.
python_clients() {
    local venv="$cache/venv" stamp
    stamp=$({ python3 --version; cat "$here/requirements.txt"; } 2>/dev/null | sha256sum)
    [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$stamp" ] && [ -x "$venv/bin/python" ] && return 0
    if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        install_packages python3-venv || fail "the tests need Python with venv. Install with: $advice"
    fi
    say "installing pydicom, pynetdicom and dicomweb-client into $venv"
    rm -rf "$venv"
    logged venv python3 -m venv "$venv" || fail "python3 -m venv $venv failed; see $cache/logs/venv.log"
    logged pip "$venv/bin/pip" install --disable-pip-version-check -q -r "$here/requirements.txt" ||
        fail "pip could not install tests/requirements.txt; see $cache/logs/pip.log"
    printf '%s\n' "$stamp" >"$venv/.stamp"
}

have_npm() {
    have npm && return 0
    install_packages npm && have npm
}

# The OHIF viewer's prebuilt pages. Optional: without them a node serves everything but the viewer.
viewer() {
    local target="$cache/ohif/$ohif_version"
    if [ -f "$target/.complete" ]; then
        [ -e "$cache/ohif/current" ] || ln -sfn "$ohif_version" "$cache/ohif/current"
        return 0
    fi
    if ! have_npm; then
        say "without the OHIF viewer: npm is missing. Install with: $advice"
        return 1
    fi
    say "fetching the OHIF viewer $ohif_version from npm into $target"
    local work="$cache/ohif/.unpack-$$"
    rm -rf "$work" "$target"
    mkdir -p "$work"
    if (cd "$work" && logged ohif npm pack --loglevel=error "@ohif/app@$ohif_version") &&
        tar -xzf "$work"/ohif-app-*.tgz -C "$work" --exclude='*.map' --exclude='package/dist/ort' package/dist package/package.json; then
        mv "$work/package" "$target"
        touch "$target/.complete"
        ln -sfn "$ohif_version" "$cache/ohif/current"
        rm -rf "$work"
        return 0
    fi
    rm -rf "$work"
    say "without the OHIF viewer: npm pack @ohif/app@$ohif_version failed; see $cache/logs/ohif.log"
    return 1
}

# What drives a real browser; the stamp names the Node.js that was seen to run it.
playwright() {
    local folder="$cache/playwright" stamp
    stamp="$playwright_version on Node.js $(node --version 2>/dev/null)"
    [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ] && [ -d "$folder/node_modules/playwright-core" ] && return 0
    have_npm || { missing_browser "npm is missing; install with: $advice"; return 1; }
    say "installing playwright-core $playwright_version into $folder"
    rm -rf "$folder"
    mkdir -p "$folder"
    logged playwright npm install --prefix "$folder" --no-audit --no-fund --loglevel=error --save-exact \
        "playwright-core@$playwright_version" || { missing_browser "npm could not install playwright-core; see $cache/logs/playwright.log"; return 1; }
    logged playwright node -e "require('$folder/node_modules/playwright-core')" ||
        { missing_browser "playwright-core does not run on Node.js $(node --version); see $cache/logs/playwright.log"; return 1; }
    printf '%s\n' "$stamp" >"$folder/.stamp"
}

# The reason is kept for tests/run.sh, which says it again.
missing_browser() { # why
    browser_missing=$1
    echo "$1" >"$cache/state/browser-missing"
}

# Everything for the browser's tests; false if something can't be had.
browser() {
    rm -f "$cache/state/browser-missing"
    browser_missing=
    local packages=()
    have chromium || packages+=(chromium)
    have node || packages+=(nodejs)
    # Patients' names are Chinese: without such a font a screenshot shows boxes and proves nothing.
    { have fc-list && fc-list :lang=zh 2>/dev/null | grep -q .; } || packages+=(fontconfig fonts-wqy-microhei)
    if [ ${#packages[@]} != 0 ] && ! install_packages "${packages[@]}"; then
        missing_browser "missing: ${packages[*]}; install with: $advice"
        return 1
    fi
    viewer || { missing_browser "the OHIF viewer could not be fetched; see above"; return 1; }
    playwright
}

case "${1:-}" in
build) compilers ;;
demo)
    compilers && { viewer || true; }
    { have storescu || install_packages dcmtk; } || say "the demo imports files instead of sending them: DCMTK is missing. Install with: $advice"
    ;;
bench) compilers && dcmtk ;;
# All other tests run without a browser; what is asked for alone must not pass without it.
test) compilers && cargo_tools && dcmtk && small_tools && python_clients && { browser || say "without the browser's tests: $browser_missing"; } ;;
browser) compilers && dcmtk && small_tools && python_clients && { browser || fail "the browser's tests cannot run: $browser_missing"; } ;;
*) fail "usage: tests/bootstrap.sh build|demo|bench|test|browser" ;;
esac
