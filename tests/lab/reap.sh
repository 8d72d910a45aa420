#!/usr/bin/env bash
# Removes what a cluster leaves on the machine, once its standard input ends: whoever holds the other end has then done with
# it, or died, by whatever signal. What to remove are the lines until then: `cgroup NAME`, `netns NAME`, `folder PATH`. What is
# gone already is fine.
set -uo pipefail
# Interrupts from the terminal are for those who hold the other end.
trap '' HUP INT TERM
lines=$(cat)

# Processes that were killed are still on their way out.
remove_cgroup() {
  local name=$1 tries group
  for ((tries = 0; tries < 200; tries++)); do
    mapfile -t groups < <(find /sys/fs/cgroup -type d -name "$name" -prune 2>/dev/null)
    [ ${#groups[@]} -gt 0 ] || return 0
    for group in "${groups[@]}"; do
      find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u | xargs -r kill -9 2>/dev/null
      find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
    done
    sleep 0.02
  done
  echo "reap: ${groups[*]} cannot be removed" >&2
}

# Processes first: they use the rest.
while read -r kind name; do [ "$kind" != cgroup ] || remove_cgroup "$name"; done <<< "$lines"
while read -r kind name; do
  case $kind in
    netns) [ ! -e "/run/netns/$name" ] || ip netns del "$name" ;;
    folder) rm -rf "$name" ;;
  esac
done <<< "$lines"
