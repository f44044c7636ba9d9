# shellcheck shell=bash
# What every script in ci/ shares: where the repository is, which toolchain is used, how a script speaks.
# Sourced, never run. It changes into the repository's root, so that each script works from anywhere.

repository_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$repository_root" || exit 1

# A toolchain that rustup put here is usable before a new login shell has it on its PATH.
cargo_bin="${CARGO_HOME:-$HOME/.cargo}/bin"
case ":$PATH:" in
    *":$cargo_bin:"*) ;;
    *) export PATH="$cargo_bin:$PATH" ;;
esac

say() { printf '%s: %s\n' "${0##*/}" "$*"; }

fail() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# `ci/test` repeats these lines in its summary: what did not run is said by name, with the reason.
skipped() { printf 'SKIPPED %s\n' "$*"; }

# The version that Cargo.toml states, such as 1.95: the oldest that must build, and the one that is tested.
rust_version() { sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml; }

# Prints the active toolchain's version, such as 1.95.0; fails where there is none.
active_version() { cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*$/\1/p' | grep .; }

# Whether $1 is a release of the stated version: 1.95.1 is one of 1.95, and 1.950.0 is not.
is_stated_version() { [[ "$1." == "$(rust_version)."* ]]; }

at_least() { [[ "$(printf '%s\n%s\n' "$1" "$2" | sort --version-sort | head -n 1)" == "$2" ]]; }

# Prints the name under which rustup holds the stated version; fails where it does not.
stated_toolchain() {
    local name
    for name in $(rustup toolchain list 2>/dev/null | sed 's/ .*//'); do
        if is_stated_version "${name%%-*}"; then
            printf '%s\n' "$name"
            return
        fi
    done
    return 1
}

# Prefers the stated toolchain to whatever is active, so that everyone sees the same lints and formatting.
# A newer one is used as it is where the stated one is not installed. Never changes a person's default.
choose_toolchain() {
    local active name
    active="$(active_version || true)"
    if ! is_stated_version "$active" && name="$(stated_toolchain)"; then
        export RUSTUP_TOOLCHAIN="$name"
    fi
}

# Installs what is missing for the named groups (see ci/setup), then settles on a toolchain.
need() {
    ci/setup "$@"
    choose_toolchain
}
