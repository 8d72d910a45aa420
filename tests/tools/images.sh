#!/usr/bin/env bash
# images.sh BIN   builds the images of operator and agent, and one for tests, from the programs in BIN into BIN/images: an
# OCI archive each, with the version in its name. With buildah, podman or docker, whichever is there.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$1
images=$bin/images
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)
# More than this is a dependency that nobody noticed.
limit=$((15 * 1024 * 1024))

# The first that works: docker without its daemon does not.
builder() {
  if command -v buildah >/dev/null; then echo buildah
  elif command -v podman >/dev/null; then echo podman
  elif docker info >/dev/null 2>&1; then echo docker
  else
    echo 'images: please install buildah, podman or docker' >&2
    return 1
  fi
}

# build CONTAINERFILE CONTEXT IMAGE ARCHIVE
build() {
  local args=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision" -f "$1" -t "$3")
  case $with in
    # A storage of its own, and no namespaces: there is no RUN. Times do not go in, so the same programs give the same image.
    buildah)
      buildah "${storage[@]}" build --isolation chroot --timestamp 0 --layers=false -q "${args[@]}" "$2" >/dev/null
      buildah "${storage[@]}" push -q "$3" "oci-archive:$4:$3" ;;
    podman)
      podman "${storage[@]}" build --isolation chroot --timestamp 0 --layers=false -q "${args[@]}" "$2" >/dev/null
      podman "${storage[@]}" save -q --format oci-archive -o "$4" "$3" ;;
    docker)
      docker build -q "${args[@]}" "$2" >/dev/null
      docker save -o "$4" "$3" ;;
  esac
}

# image NAME CONTAINERFILE FILE...   in a context of just these files
image() {
  local name=$1 containerfile=$2 context=$work/$1 archive=$images/$1-$version.tar size
  shift 2
  mkdir -p "$context"
  cp "$@" "$context"
  build "$containerfile" "$context" "localhost/cadastre/${name#cadastre-}:$version" "$work/$name.tar"
  size=$(stat -c %s "$work/$name.tar")
  if [ "$size" -gt $limit ]; then
    echo "images: $name has $size bytes; it may have $limit at most" >&2
    return 1
  fi
  mv "$work/$name.tar" "$archive"
  printf '%-18s %5.1f MB  %s\n' "$name" "$(awk "BEGIN { print $size / 1e6 }")" "$archive"
}

with=$(builder)
mkdir -p "$images"
exec 9>"$images/.lock"
flock 9
# Beside the archives, so that they get there in one step.
work=$(mktemp -d "$images/.work-XXXXXX")
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
trap 'rm -rf "$work"' EXIT
image cadastre-operator "$root/operator/Containerfile" "$bin/cadastre-operator"
image cadastre-agent "$root/agent/Containerfile" "$bin/cadastre-agent" "$bin/cadastre"
busybox=$(command -v busybox) || { echo 'images: no image for tests, as busybox is missing (Debian: busybox-static)' >&2; exit 0; }
image cadastre-pause "$root/tests/lab/pause/Containerfile" "$busybox"
