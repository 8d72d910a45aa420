#!/usr/bin/env bash
# Checks that what the Makefile needs is here: Rust and Go, which it presumes, and a few Debian packages, which it installs
# when it may.
#
#   prereqs.sh           for everything but a cluster
#   prereqs.sh cluster   also for `make cluster` and the tests on one, if this machine can have one
set -euo pipefail

missing_toolchain=()
command -v cargo >/dev/null || missing_toolchain+=("Rust (https://rustup.rs)")
command -v go >/dev/null || missing_toolchain+=("Go 1.26 (https://go.dev/dl)")
if [ ${#missing_toolchain[@]} -gt 0 ]; then
  echo "prereqs: please install: ${missing_toolchain[*]}" >&2
  exit 1
fi

packages=()
need() { command -v "$1" >/dev/null || packages+=("$2"); }
need cc gcc
[ -e /usr/include/stdlib.h ] || packages+=(libc6-dev)
need ip iproute2
need ping iputils-ping
need flock util-linux
need nsenter util-linux
need setpriv util-linux
need iptables iptables
need strace strace
# The reference CNI plugins as Debian has them: interface plugins of an older release than those that we build.
[ -x /usr/lib/cni/bridge ] || packages+=(containernetworking-plugins)
# Prometheus and promtool.
need promtool prometheus
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)
# Nodes need cgroup v1; where it is missing those tests say so and pass.
if [ "${1:-}" = cluster ] && grep -q '^[0-9]*:[^:]*\bmemory\b' /proc/self/cgroup; then
  need containerd containerd
  need runc runc
  need busybox busybox-static
  command -v podman >/dev/null || need buildah buildah
fi
[ ${#packages[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "prereqs: please install the Debian packages: ${packages[*]}" >&2
  exit 1
fi
echo "prereqs: installing the Debian packages ${packages[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# Some packages start a service when they are installed, unless this file forbids it; we want their programs only.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod +x $policy
fi
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >&2
# Nor at the next boot.
if [ -d /run/systemd/system ] && [[ " ${packages[*]} " == *' prometheus '* ]]; then systemctl disable --quiet prometheus >&2; fi
