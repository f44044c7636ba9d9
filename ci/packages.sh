# shellcheck shell=bash
# How scripts install packages. Sourced after ci/common.sh, never run.

install_packages() {
    (($#)) || return 0
    can_install_packages ||
        fail "missing: $*; installing them takes apt-get, and root or sudo, so install them by hand"
    say "installing with apt-get: $*"
    refresh_package_lists
    apt_get install --no-install-recommends "$@" >/dev/null || fail "apt-get could not install: $*"
}

can_install_packages() { has apt-get && { ((EUID == 0)) || has sudo; }; }

package_lists_fresh=
refresh_package_lists() {
    [[ -z "$package_lists_fresh" ]] || return 0
    apt_get update >/dev/null || fail "apt-get update failed; see the lines above"
    package_lists_fresh=yes
}

# Runs apt-get as root, asking nothing, and waiting for another installation to end rather than failing on its lock.
apt_get() {
    local command=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300)
    ((EUID == 0)) || command=(sudo "${command[@]}")
    "${command[@]}" "$@"
}

has() { command -v "$1" >/dev/null 2>&1; }
