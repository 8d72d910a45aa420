#!/usr/bin/env bash
# install.sh FOLDER FILE...   copies programs into a folder, each in one step, so that one that runs is never half written.
set -euo pipefail

folder=$1
shift
for file in "$@"; do
  target=$folder/$(basename "$file")
  if cmp -s "$file" "$target"; then continue; fi
  cp "$file" "$target.partial"
  mv "$target.partial" "$target"
done
