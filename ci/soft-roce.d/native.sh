# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034  # ci/soft-roce and its other parts assign what this one reads, and the reverse.
# The same devices without a machine, in a network namespace of the host. Sourced by ci/soft-roce.
#
# Nothing protects the host's files here: COMMAND writes where it likes. Not every kernel that has rdma_rxe can do it:
# that of Linux 6.1 receives packets in the host's own namespace only. So what was made is tried first.

native_try_seconds_max=10

run_natively() {
    local missing=() problem
    while read -r problem; do
        missing+=("$problem")
    done < <(native_problems)
    if ((${#missing[@]})); then
        printf 'missing: %s\n' "${missing[@]}" >&2
        fail "--native is not possible here, for what is listed above; without it a machine is booted"
    fi
    work="$(mktemp --directory)"
    trap clean_up_natively EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    accelerator=native
    devices="$parts/devices"
    [[ -n "$out" ]] || { mkdir "$work/out" && out="$work/out"; }
    write_job ""
    # The namespace's devices would otherwise stay for as long as somebody's process does.
    local status=0
    unshare --net --mount --pid --fork --kill-child -- \
        bash -c "$native_script" bash "$parts/devices" "$mtu" "$native_try_seconds_max" "$work/job/command" \
        "$timeout_seconds" </dev/null || status=$?
    ((status != 124 || timeout_seconds == 0)) ||
        say "error: the command was ended, because it ran longer than $timeout_seconds s, as --timeout says"
    exit "$status"
}

clean_up_natively() {
    local device
    for device in rxe0 rxe1; do
        rdma link del "$device" 2>/dev/null || true
    done
    rm -rf "$work"
}

# One a line.
native_problems() {
    local program
    ((EUID == 0)) || echo "root, which making devices takes"
    for program in ip rdma unshare rping modprobe; do
        has "$program" || echo "the program $program (ci/setup soft-roce installs it)"
    done
    modprobe rdma_rxe 2>/dev/null || [[ -d /sys/module/rdma_rxe ]] ||
        echo "the module rdma_rxe: the kernel $(uname -r) neither has it built in nor under /lib/modules/$(uname -r)"
    modprobe rdma_ucm 2>/dev/null || [[ -d /sys/module/rdma_ucm ]] ||
        echo "the module rdma_ucm of the kernel $(uname -r), without which there is no rdma_cm"
    for program in rxe0 rxe1; do
        [[ ! -e "/sys/class/infiniband/$program" ]] || echo "the name $program, which another device has"
    done
}

# In the namespaces. /sys is mounted anew, or it would show the host's network devices.
# shellcheck disable=SC2016
native_script='
    mount -t sysfs sysfs /sys && mount -t proc proc /proc
    /bin/sh "$1" make "$2" >&2 || { echo "soft-roce: error: the devices could not be made natively" >&2; exit 125; }
    timeout "$3" rping -s -a 10.77.0.1 -C 1 >/dev/null 2>&1 & sleep 0.5
    if ! timeout "$3" rping -c -a 10.77.0.1 -C 1 >/dev/null 2>&1; then
        echo "soft-roce: error: the rdma_rxe of Linux $(uname -r) does not receive in a network namespace;" \
            "run this without --native" >&2
        exit 125
    fi
    wait
    ulimit -l unlimited
    # No limit is 0 to timeout too.
    timeout --kill-after 5 "$5" env -i setsid --wait /bin/sh "$4"
'
