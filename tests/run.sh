#!/usr/bin/env bash
# `make test`: format, clippy, the release binaries, then all tests. The last line says `N passed, N failed`; what is no
# test, such as clippy, counts only when it fails.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

step() {
  local name=$1 started=$SECONDS
  shift
  echo "==> $name"
  if "$@"; then
    echo "==> $name: done in $((SECONDS - started)) s"
  else
    echo "==> $name: FAILED"
    failed=$((failed + 1))
    return 1
  fi
}

# Adds up a column of cargo's lines `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
sum() {
  awk -v what="$1;" '/^test result: / { for (i = 2; i <= NF; i++) if ($i == what) n += $(i - 1) } END { print n + 0 }' "$log"
}

finish() {
  local passed=$(sum passed) skipped=$(sum ignored) lines
  failed=$((failed + $(sum failed)))
  # A test program that crashed, or did not compile, has no result line.
  if [ "$1" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
  lines="$passed passed, $failed failed"
  if [ "$skipped" != 0 ]; then lines+=", $skipped skipped"; fi
  echo "$lines"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
  exit
}

# Test programs know the folder of the checkout they were built in. Cargo does not tell two checkouts that share a cache
# apart, so those of another one are built anew.
stamp=${CARGO_TARGET_DIR:-target}/tests-of-checkout
if [ "$(cat "$stamp" 2>/dev/null)" != "$PWD" ]; then
  find . -name '*.rs' -not -path './target/*' -exec touch {} +
  mkdir -p "$(dirname "$stamp")" && echo "$PWD" > "$stamp"
fi

step 'format' cargo fmt --all --check
step 'clippy' cargo clippy --quiet --workspace --all-targets -- -D warnings
step 'release binaries' make -s release || finish 1
echo '==> tests'
cargo test --workspace --no-fail-fast 2>&1 | tee "$log"
finish "${PIPESTATUS[0]}"
