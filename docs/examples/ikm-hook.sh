#!/bin/sh
# An IKM hook, the simplest root of trust there is: no arguments, no stdin, one line of hex on stdout, at least 16 bytes.
#
# This is an example: a file is not hardware. A real hook asks a device for a secret that it gives to this machine alone,
# and that is the same at every boot. The file was made once: head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
#
# The environment is empty but for what the slot's configuration names: env = { IKM_FILE = "/…" }
set -eu

ikm=$(head -n 1 "${IKM_FILE:-/etc/example/ikm.hex}")
[ -n "$ikm" ] || exit 1
printf '%s\n' "$ikm"
