#!/usr/bin/env bash
# `make test`: format, clippy, the release binaries, images, then all tests. The last line says `N passed, N failed`; what is no
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
if [ -e "$stamp" ] && [ "$(cat "$stamp")" != "$PWD" ]; then
  find . -name '*.rs' -not -path './target/*' -exec touch {} +
fi
mkdir -p "$(dirname "$stamp")" && echo "$PWD" > "$stamp"

# Every test program as `seconds of its last run, program, folder of its package`. The longest come first, so that no long one
# is left to the end; one that is new counts as long.
programs() {
  sed -n '/"test":true},"features"/ s/.*"manifest_path":"\([^"]*\)\/Cargo.toml".*"executable":"\([^"]*\)".*/\2 \1/p' "$1" |
    awk -v times="$times" '
      BEGIN { while ((getline line < times) > 0) { split(line, word, " "); took[word[1]] = word[2] } }
      { name = $1; sub(/.*\//, "", name); sub(/-[0-9a-f]*$/, "", name); print (name in took ? took[name] : 999), $0 }' |
    sort -rn
}

# One program in the folder of its package, as cargo runs it; its output in one piece.
run_program() {
  local program=$2 folder=$3 out=$logs/$(basename "$2") started=$SECONDS code
  (cd "$folder" && CARGO_MANIFEST_DIR=$folder "$program") > "$out" 2>&1
  code=$?
  if [ "$code" != 0 ] && ! grep -q '^test result: FAILED' "$out"; then
    echo "test result: FAILED. 0 passed; 1 failed; 0 ignored; $program ended with $code" >> "$out"
  fi
  flock "$logs" sh -c 'echo "==> $1: $2 s"; cat "$3"' - "${program##*/}" $((SECONDS - started)) "$out"
  echo "$(basename "$program" | sed 's/-[0-9a-f]*$//') $((SECONDS - started))" > "$out.time"
  return "$code"
}
export -f run_program

# Most tests wait for other processes most of the time, so one program more than there are cores runs at once. API servers and
# kubelets that live for seconds collect garbage less often: a third of what they took of the CPU (2.6 s to start, 1.8 so).
tests() {
  local built=$logs/built failed=0
  cargo test --workspace --no-run --message-format=json-render-diagnostics > "$built" || return 1
  export GOGC=400
  programs "$built" | xargs -P "$(($(nproc) + 1))" -L 1 bash -c 'run_program "$@"' - || failed=1
  cat "$logs"/*.time | sort -u > "$times"
  cargo test --quiet --workspace --doc || failed=1
  return $failed
}

step 'format' cargo fmt --all --check
step 'clippy' cargo clippy --quiet --workspace --all-targets -- -D warnings
step 'release binaries' make -s release || finish 1
# For the tests on a cluster; where there can be none they say so.
if grep -q '^[0-9]*:[^:]*\bmemory\b' /proc/self/cgroup; then step 'images' make -s images || finish 1; fi
echo '==> tests'
logs=$(mktemp -d)
times=${CARGO_TARGET_DIR:-target}/tests-took
export logs
trap 'rm -rf "$log" "$logs"' EXIT
tests 2>&1 | tee "$log"
finish "${PIPESTATUS[0]}"
