# shellcheck shell=bash
# What the machine takes of the host: installed where it is missing, and only then. Sourced after ci/packages.sh, by
# ci/soft-roce and ci/setup.

# The emulator without its recommended packages, which are a desktop's. The kernel is no package that is installed:
# cache.sh fetches it. Not rdma-core: its services and udev rules are for a host with devices.
setup_soft_roce() {
    local missing=()
    has qemu-system-x86_64 || missing+=(qemu-system-x86)
    busybox_is_static || missing+=(busybox-static)
    has modprobe || [[ -x /sbin/modprobe ]] || missing+=(kmod)
    { has rdma && { has tc || [[ -x /sbin/tc ]]; }; } || missing+=(iproute2)
    has xz || missing+=(xz-utils)
    has zstd || missing+=(zstd)
    compgen -G '/etc/libibverbs.d/rxe.driver' >/dev/null || missing+=(ibverbs-providers)
    has ibv_devinfo || missing+=(ibverbs-utils)
    has rping || missing+=(rdmacm-utils)
    has ib_send_lat || missing+=(perftest)
    install_packages "${missing[@]}"
}

# It runs before there is a file system with a C library. Ubuntu has another busybox installed that needs one.
busybox_is_static() { has busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1; }
