# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034  # ci/soft-roce and its other parts assign what this one reads, and the reverse.
# What the machine is booted from: a kernel with its modules, and an initramfs. Kept in $cache, where everything is made
# aside and renamed, so that what has its name is complete. Sourced by ci/soft-roce.

cache="${SOFT_ROCE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/underlay/soft-roce}"
# A stock kernel boots under KVM within two or three.
kvm_seconds_max=15

# The modules that the machine needs, and those that only some kernels have.
modules=(virtio_pci virtio_console virtio_rng 9p 9pnet_virtio overlay veth rdma_rxe rdma_ucm ib_uverbs sch_netem)
modules_if_there=(crc32_generic)

# An initramfs that no run has used for so long belongs to another version of these scripts.
initramfs_days_max=7

# Set by `prepare`.
kernel=
initramfs=
accelerator=

# One at a time, so that runs that start together fetch once.
prepare() {
    mkdir -p "$cache" || fail "$cache cannot be made; SOFT_ROCE_CACHE names another folder"
    local lock
    exec {lock}>"$cache/lock"
    flock "$lock"
    # Whoever was ended in the middle left it, and nobody else is at work.
    rm -rf "$cache"/aside.*
    find_kernel || fetch_kernel
    find_initramfs || make_initramfs
    choose_accelerator
    exec {lock}>&-
}

# The newest that was fetched. A newer one is fetched when the cache was removed.
find_kernel() {
    kernel="$(find "$cache" -maxdepth 1 -name 'kernel-*' | sort --version-sort | tail -n 1)"
    [[ -n "$kernel" ]]
}

# A distribution's stock kernel: the cloud flavour lacks rdma_rxe.
fetch_kernel() {
    local aside packages=() meta
    aside="$(mktemp --directory "$cache/aside.XXXXXX")"
    ! can_install_packages || refresh_package_lists
    for meta in linux-image-amd64 linux-image-generic; do
        ((${#packages[@]})) || mapfile -t packages < <(kernel_packages "$meta")
    done
    ((${#packages[@]})) || fail "apt knows neither linux-image-amd64 nor linux-image-generic;" \
        "'apt-get update' as root may help"
    say "fetching ${packages[*]} into $cache, once; nothing of it is installed"
    (cd "$aside" && apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}" >&2) ||
        fail "apt-get could not download: ${packages[*]}"
    unpack_kernel "$aside"
    kernel="$cache/kernel-$(ls "$aside/kernel/lib/modules")"
    mv "$aside/kernel" "$kernel"
    rm -rf "$aside"
}

# The packages of the kernel that the package $1 stands for. On Ubuntu the modules have packages of their own.
kernel_packages() {
    local image version package
    image="$(apt-cache depends --important "$1" 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)"
    [[ -n "$image" ]] || return 0
    version="${image#linux-image-}"
    echo "$image"
    for package in "linux-modules-$version" "linux-modules-extra-$version"; do
        [[ -z "$(apt-cache madison "$package" 2>/dev/null)" ]] || echo "$package"
    done
}

# Makes $1/kernel from the packages in $1: the file `kernel`, which is booted, and lib/modules.
unpack_kernel() {
    local package found version drivers
    mkdir -p "$1/files" "$1/kernel/lib"
    for package in "$1"/*.deb; do
        dpkg-deb --extract "$package" "$1/files"
    done
    found="$1/files/lib/modules"
    [[ -d "$found" ]] || found="$1/files/usr/lib/modules"
    mv "$found" "$1/kernel/lib/"
    version="$(ls "$1/kernel/lib/modules")"
    # Nine tenths of the modules are drivers of hardware that the machine does not have.
    drivers="$1/kernel/lib/modules/$version/kernel/drivers"
    rm -rf "${drivers%/drivers}/sound"
    find "$drivers" -mindepth 1 -maxdepth 1 \
        ! -name infiniband ! -name virtio ! -name net ! -name char ! -name block -exec rm -rf {} +
    find "$drivers/net" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
    depmod --basedir "$1/kernel" "$version"
    extract_kernel "$1/files/boot/vmlinuz-$version" "$1/files/boot/config-$version" "$1/kernel/kernel"
}

# A kernel that is built for it (PVH) can be entered directly, without the decompression that takes the emulated machine
# three seconds at each boot. Any other is booted as it comes.
extract_kernel() {
    local pattern unpack offset
    if grep -q '^CONFIG_PVH=y' "$2" 2>/dev/null; then
        while read -r pattern unpack; do
            while read -r offset; do
                # What follows the compressed kernel is an error to its decompressor.
                tail -c "+$((offset + 1))" "$1" | $unpack >"$3" 2>/dev/null || true
                [[ "$(head -c 4 "$3" | tail -c 3)" != ELF ]] || return 0
            done < <(grep --text --byte-offset --only-matching --perl-regexp "$pattern" "$1" | cut -d : -f 1)
        done <<'END'
\xfd7zXZ\x00 xz -dc
\x28\xb5\x2f\xfd zstd -dcq
\x1f\x8b\x08 gzip -dc
END
    fi
    cp "$1" "$3"
}

# Named by what it is made from, so that another version of these scripts makes its own.
find_initramfs() {
    local sum
    sum="$({
        cat "$parts"/* "$(command -v busybox)"
        echo "$kernel"
    } | sha256sum | cut -c 1-16)"
    initramfs="$cache/initramfs-$sum"
    [[ -e "$initramfs" ]] && touch "$initramfs"
}

make_initramfs() {
    local aside
    aside="$(mktemp --directory "$cache/aside.XXXXXX")"
    mkdir -p "$aside"/initial/{bin,dev,proc,sys,host,overlay,new,modules}
    cp "$(command -v busybox)" "$aside/initial/bin/busybox"
    cp "$parts/machine" "$parts/devices" "$aside/initial/"
    cp "$parts/first" "$aside/initial/init"
    copy_modules "$aside"
    (cd "$aside/initial" && find . | busybox cpio -o -H newc >../initramfs 2>/dev/null)
    mv "$aside/initramfs" "$initramfs"
    rm -rf "$aside"
    find "$cache" -maxdepth 1 -name 'initramfs-*' -mtime "+$initramfs_days_max" -delete
}

# Copies each module after those that it depends on, and writes down that order. One that is built in has no file.
copy_modules() {
    local module file version
    version="$(ls "$kernel/lib/modules")"
    for module in "${modules_if_there[@]}" "${modules[@]}"; do
        if ! modprobe --dirname "$kernel" --set-version "$version" --show-depends "$module" >"$1/steps" 2>/dev/null; then
            [[ " ${modules_if_there[*]} " == *" $module "* ]] || fail "the kernel $version has no module $module"
        fi
        sed -n 's/^insmod \([^ ]*\).*$/\1/p' "$1/steps" >>"$1/files"
    done
    while read -r file; do
        copy_module "$file" "$1/initial/modules"
    done < <(awk '!seen[$0]++' "$1/files") >"$1/initial/modules/order"
}

# Uncompressed, since the machine's first program can load no other. Prints the copy's name.
copy_module() {
    local name="${1##*/}"
    case "$name" in
        *.ko) cp "$1" "$2/$name" ;;
        *.ko.xz) xz -dc "$1" >"$2/${name%.xz}" ;;
        *.ko.zst) zstd -dcq "$1" >"$2/${name%.zst}" ;;
        *) fail "a module that is compressed in an unknown way: $1" ;;
    esac
    name="${name%.xz}"
    echo "${name%.zst}"
}

# A /dev/kvm may be there and not boot this kernel, inside of some virtual machines. So it is tried, once.
choose_accelerator() {
    accelerator="${SOFT_ROCE_ACCELERATOR:-}"
    case "$accelerator" in
        kvm | tcg) return ;;
        "") accelerator=tcg ;;
        *) fail "SOFT_ROCE_ACCELERATOR is '$accelerator'; there are kvm and tcg" ;;
    esac
    [[ -r /dev/kvm && -w /dev/kvm ]] || return 0
    local remembered
    remembered="$cache/accelerator-$(uname -r)-$(qemu-system-x86_64 --version |
        sed -n '1s/.*version \([^ ]*\).*/\1/p')"
    if [[ ! -e "$remembered" ]]; then
        ! boots_under_kvm || accelerator=kvm
        echo "$accelerator" >"$cache/aside.accelerator"
        mv "$cache/aside.accelerator" "$remembered"
    fi
    accelerator="$(<"$remembered")"
}

boots_under_kvm() {
    say "trying whether KVM boots a machine here, for at most $kvm_seconds_max s"
    local arguments answer
    machine_arguments kvm /dev/null /dev/null /dev/null soft_roce.probe
    answer="$(timeout --signal KILL "$kvm_seconds_max" qemu-system-x86_64 "${arguments[@]}" \
        2>/dev/null </dev/null 9>&1 || true)"
    if [[ "$answer" == booted ]]; then
        say "it does; remembered in $cache"
    else
        say "it does not, so machines are emulated; remembered in $cache"
        return 1
    fi
}
