# shellcheck shell=bash
# shellcheck disable=SC2154  # ci/soft-roce and its other parts assign what this one reads.
# A machine at work: its QEMU, what passes in and out, and how it ends. Sourced by ci/soft-roce.

boot_seconds_max="${SOFT_ROCE_BOOT_SECONDS:-120}"
console_lines=60

# Variables that COMMAND gets by name, and those whose names begin so.
passed_always=(PATH HOME TERM LANG TZ)
passed_prefixes=(UNDERLAY_ CARGO RUST NEXTEST LC_)

# Where the script that makes and mends the devices is, to COMMAND.
devices=/run/soft-roce/devices

work=
machine=
relays=()
terminal_settings=

boot() {
    [[ "$boot_seconds_max" =~ ^[1-9][0-9]*$ ]] || fail "SOFT_ROCE_BOOT_SECONDS takes a whole number of seconds"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
    work="$(mktemp --directory)"
    local arguments began="$EPOCHREALTIME"
    if [[ "$1" == shell ]]; then
        machine_arguments "$accelerator" "$work/console" /dev/null /dev/null
        arguments+=(-chardev "stdio,id=terminal,signal=off" -serial chardev:terminal)
        terminal_settings="$(stty -g)"
        write_job "$(stty size | sed 's/\(.*\) \(.*\)/rows \1 cols \2/')"
        add_shares
        start </dev/tty >/dev/tty
    else
        mkfifo "$work/stdout" "$work/stderr"
        machine_arguments "$accelerator" "$work/console" "$work/stdout" "$work/stderr"
        write_job ""
        add_shares
        "$parts/relay" "$mark" <"$work/stdout" &
        relays+=($!)
        "$parts/relay" "$mark" <"$work/stderr" >&2 &
        relays+=($!)
        start </dev/null >/dev/null
    fi
    watch
}

clean_up() {
    local process
    for process in $machine ${relays[@]+"${relays[@]}"}; do
        kill -KILL "$process" 2>/dev/null || continue
        wait "$process" 2>/dev/null || true
    done
    [[ -z "$terminal_settings" ]] || stty "$terminal_settings" </dev/tty
    [[ -z "$work" ]] || rm -rf "$work"
}

# Sets `arguments` for the accelerator $1, the console file $2, output files $3 and $4, and a further word for the
# kernel. Reports come out of file descriptor 9. There is no network device.
machine_arguments() {
    local processor khz words="console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr"
    # Without self-tests of ciphers, and without waiting for a loop to be timed: two seconds of an emulated boot.
    words+=" cryptomgr.notests audit=0 apparmor=0 nowatchdog lpj=4000000"
    if [[ "$1" == kvm ]]; then
        processor=host
    else
        # The fastest to emulate. Plain x86-64 programs need less, and libraries choose at run time by what there is.
        processor=qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdtscp
        words+=" tsc=reliable clocksource=tsc"
        # The emulated counter is the host's. Timing it by emulated clocks goes wrong on a busy host: time then ran up
        # to six times too fast.
        khz="$(counter_khz)"
        [[ -z "$khz" ]] || words+=" tsc_early_khz=$khz"
        # Emulated processors that poll while idle wake sooner, and take all of the host's time that they get.
        [[ -z "$idle_poll" ]] || words+=" idle=poll"
    fi
    arguments=(
        -accel "$1$([[ "$1" == kvm ]] || echo ,thread=multi)" -cpu "$processor" -smp "$cpus" -m "$memory_mb"
        -nodefaults -no-user-config -display none -no-reboot
        -kernel "${kernel//,/,,}/kernel" -initrd "${initramfs//,/,,}" -append "$words ${5:-}"
        -serial "file:$2"
        -device virtio-rng-pci
        -fsdev "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"
        -device "virtio-9p-pci,fsdev=host,mount_tag=host"
        -device virtio-serial-pci
        -chardev "file,id=report,path=/dev/fd/9" -device "virtserialport,chardev=report,nr=1"
        -chardev "file,id=stdout,path=${3//,/,,}" -device "virtserialport,chardev=stdout,nr=2"
        -chardev "file,id=stderr,path=${4//,/,,}" -device "virtserialport,chardev=stderr,nr=3"
    )
}

# How fast the host's time stamp counter counts, in kHz, if its kernel's log still says so and may be read.
counter_khz() {
    { dmesg 2>/dev/null || true; } |
        sed -n 's/.*tsc: \(Detected\|Refined TSC clocksource calibration:\) \([0-9]*\)[.]\([0-9]\{3\}\) MHz.*/\2\3/p' |
        tail -n 1
}

add_shares() {
    arguments+=(
        -fsdev "local,id=job,path=${work//,/,,}/job,security_model=none,readonly=on"
        -device "virtio-9p-pci,fsdev=job,mount_tag=job"
    )
    [[ -z "$out" ]] || arguments+=(
        -fsdev "local,id=out,path=${out//,/,,},security_model=none,multidevs=remap"
        -device "virtio-9p-pci,fsdev=out,mount_tag=out"
    )
}

# What the machine reads: settings for itself, and a script that becomes COMMAND. $1 is the size of a shell's terminal.
write_job() {
    local name
    mark="soft-roce-$(od -An -N 16 -t x1 /dev/urandom | tr -d ' \n')"
    mkdir "$work/job"
    {
        for name in kernel mtu out mark; do
            printf '%s=%s\n' "$name" "$(quoted "${!name}")"
        done
        printf 'shell=%s\n' "$(quoted "$1")"
    } >"$work/job/settings"
    {
        environment
        # Not the shell's idea of a path, which may begin with "-".
        printf 'cd -- %s || exit 125\nunset OLDPWD\n' "$(quoted "$caller_directory")"
        printf 'ulimit -Sn %s\n' "$(ulimit -Sn | sed 's/unlimited/1048576/')"
        printf 'exec'
        for name in "${command[@]}"; do
            printf ' %s' "$(quoted "$name")"
        done
        printf '\n'
    } >"$work/job/command"
}

# Assignments of what COMMAND gets of the caller's environment, and of what it gets to know about the machine.
environment() {
    local variable name
    for variable in "${caller_environment[@]}"; do
        name="${variable%%=*}"
        ! is_passed "$name" || export_line "$name" "${variable#*=}"
    done
    export_line PWD "$caller_directory"
    export_line SOFT_ROCE "$accelerator"
    export_line SOFT_ROCE_OUT "${out:-/run/soft-roce/out}"
    export_line SOFT_ROCE_DEVICES "$devices"
}

is_passed() {
    local prefix
    # A function that bash exports has a name that no other shell takes.
    [[ "$1" =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || return 1
    [[ " ${passed_always[*]} ${passed_names[*]-} " != *" $1 "* ]] || return 0
    for prefix in "${passed_prefixes[@]}"; do
        [[ "$1" != "$prefix"* ]] || return 0
    done
    return 1
}

export_line() { printf 'export %s=%s\n' "$1" "$(quoted "$2")"; }

# One word of a POSIX shell, with the same bytes.
quoted() {
    local inner="'\\''"
    printf "'%s'" "${1//\'/"$inner"}"
}

# The machine goes with this script, also when the script is killed. Its reports are read from $reports.
start() {
    local terminal
    exec {terminal}>&1
    exec {reports}< <(exec 9>&1 >&"$terminal" && exec setpriv --pdeathsig KILL \
        qemu-system-x86_64 "${arguments[@]}" 2>"$work/qemu")
    machine=$!
    exec {terminal}>&-
}

# Follows the machine's reports until COMMAND has ended, and exits as it did.
watch() {
    local line status limit="$boot_seconds_max" since="$SECONDS" running=
    while :; do
        if read -r -t 0.5 -u "$reports" line; then
            case "$line" in
                started)
                    running=yes
                    since="$SECONDS"
                    limit="$timeout_seconds"
                    [[ -z "$verbose" ]] || say "booted by $accelerator in $(seconds_since "$began") s"
                    ;;
                "failed "*) give_up "the machine has booted, but ${line#failed }" ;;
                "exit "*) finish "${line#exit }" ;;
            esac
            continue
        else
            status=$?
        fi
        ((status > 128)) || give_up "the machine ended by itself before the command did"
        check_relays
        ((limit == 0 || SECONDS - since < limit)) || expire
    done
}

# Whoever took the output, such as `head`, may have gone, or its disk may be full.
check_relays() {
    local relay remaining=()
    for relay in ${relays[@]+"${relays[@]}"}; do
        if kill -0 "$relay" 2>/dev/null; then
            remaining+=("$relay")
        else
            end_relay "$relay"
        fi
    done
    relays=(${remaining[@]+"${remaining[@]}"})
}

end_relay() {
    local status=0
    wait "$1" || status=$?
    case "$status" in
        0) ;;
        3) give_up "the machine ended by itself after the command, before all output had arrived" ;;
        4) fail "the command's output could not be written" ;;
        *) exit "$status" ;;
    esac
}

finish() {
    local relay
    for relay in ${relays[@]+"${relays[@]}"}; do
        end_relay "$relay"
    done
    [[ -z "$verbose" ]] || say "ended with $1 after $(seconds_since "$began") s"
    exit "$1"
}

expire() {
    [[ -n "$running" ]] || give_up "the machine has not booted within $limit s (SOFT_ROCE_BOOT_SECONDS)"
    # What it had written before is on its way.
    kill -KILL "$machine" 2>/dev/null || true
    wait "${relays[@]}" 2>/dev/null || true
    say "error: the command was ended, because it ran longer than $limit s, as --timeout says"
    exit 124
}

give_up() {
    {
        tail -n "$console_lines" "$work/console" 2>/dev/null || true
        cat "$work/qemu" 2>/dev/null || true
    } | sed 's/^/    /' >&2
    fail "$1; the end of its console is above"
}

seconds_since() {
    local tenths=$(((${EPOCHREALTIME/./} - ${1/./}) / 100000))
    printf '%d.%d' "$((tenths / 10))" "$((tenths % 10))"
}
