# shellcheck shell=bash
run_natively() { fail "not yet"; }
