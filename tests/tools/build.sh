#!/usr/bin/env bash
# Builds the programs that tests and demo need beside ours (Kubernetes, etcd, Helm, CNI plugins, cnitool), once, into
# the user's cache, from the Go modules pinned in the folders beside this file.
#
#   build.sh         builds what is missing, then prints the folder that holds links to all programs
#   build.sh path    prints that folder and builds nothing
#
# CADASTRE_CACHE        where everything is kept (default $XDG_CACHE_HOME/cadastre or ~/.cache/cadastre)
# KUBEBUILDER_ASSETS    a folder with kube-apiserver, etcd and kubectl, used in place of building Kubernetes and etcd
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CADASTRE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cadastre}
tools=$cache/tools
groups=(kubernetes etcd helm cni-plugins cnitool)
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then groups=(helm cni-plugins cnitool); fi

# The module of a group that gives it its version.
module_of() {
  case $1 in
    kubernetes) echo k8s.io/kubernetes ;;
    etcd) echo go.etcd.io/etcd/server/v3 ;;
    helm) echo helm.sh/helm/v3 ;;
    cni-plugins) echo github.com/containernetworking/plugins ;;
    cnitool) echo github.com/containernetworking/cni ;;
  esac
}

version_of() {
  awk -v m="$(module_of "$1")" '{ sub(/^require /, "") } $1 == m && $2 ~ /^v/ { print substr($2, 2); exit }' "$here/$1/go.mod"
}

# Each program learns its version from the linker, as in its project's own build.
ldflags_of() {
  local version=$2 minor
  printf -- '-s -w'
  case $1 in
    kubernetes)
      minor=${version#*.} minor=${minor%%.*}
      for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        printf ' -X %s.gitVersion=v%s -X %s.gitMajor=%s -X %s.gitMinor=%s -X %s.gitTreeState=clean' \
          $package "$version" $package "${version%%.*}" $package "$minor" $package
      done ;;
    helm)
      # What `helm template` takes for the cluster's version; Helm's own build reads it from client-go likewise.
      minor=$(awk '$1 == "k8s.io/client-go" { split($2, v, "."); print v[2]; exit }' "$here/helm/go.mod")
      printf ' -X helm.sh/helm/v3/internal/version.version=v%s -X helm.sh/helm/v3/internal/version.gitTreeState=clean' "$version"
      for package in helm.sh/helm/v3/pkg/chartutil helm.sh/helm/v3/pkg/lint/rules; do
        printf ' -X %s.k8sVersionMajor=1 -X %s.k8sVersionMinor=%s' $package $package "$minor"
      done ;;
    cni-plugins)
      printf ' -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v%s' "$version" ;;
  esac
}

# A folder is named after the version, for people, and after everything that goes into it, for staleness.
folder_of() {
  local version sum
  version=$(version_of "$1")
  sum=$( { cat "$here/$1/go.mod" "$here/$1/go.sum"; ldflags_of "$1" "$version"; } | sha256sum)
  echo "$tools/$1-$version-${sum:0:8}"
}

path() {
  local sum
  sum=$( { for group in "${groups[@]}"; do folder_of "$group"; done; echo "${KUBEBUILDER_ASSETS:-}"; } | sha256sum)
  echo "$tools/bin-${sum:0:12}"
}

say() { echo "tools: $*" >&2; }

cost_of() {
  case $1 in
    kubernetes) echo 'about 6 min on 2 cores, the first time' ;;
    helm) echo 'about 1 min, the first time' ;;
    *) echo 'under a minute' ;;
  esac
}

# Reads the names of compiled packages as `go build -v` prints them; says every 20 s how far it is. Any other line (an
# error) is passed on.
progress() {
  local name=$1 total=$2 count=0 next=20 line started=$SECONDS
  while IFS= read -r line; do
    if [[ $line =~ ^[a-zA-Z0-9._/~-]+$ ]]; then count=$((count + 1)); else echo "$line" >&2; fi
    if [ $((SECONDS - started)) -ge $next ]; then
      say "$name: $count of $total packages, $((SECONDS - started)) s"
      next=$((SECONDS - started + 20))
    fi
  done
}

build() {
  local name=$1 folder=$2 version partial packages started=$SECONDS
  version=$(version_of "$name")
  say "building $name $version ($(cost_of "$name"))"
  partial=$folder.partial.$$
  rm -rf "$folder".partial.*
  mkdir -p "$partial"
  cd "$here/$name"
  mapfile -t packages < <(go mod edit -json | sed -n '/"Tool": \[/,/\]/s/.*"Path": "\(.*\)".*/\1/p')
  local total
  total=$(go list -mod=readonly -deps "${packages[@]}" 2> >(grep -v '^go: downloading' >&2) | wc -l)
  go build -v -mod=readonly -trimpath -buildvcs=false -ldflags "$(ldflags_of "$name" "$version")" -o "$partial/" "${packages[@]}" 2>&1 |
    progress "$name" "$total"
  # go names a program after its package's folder, past a trailing /v3
  if [ "$name" = etcd ]; then mv "$partial/server" "$partial/etcd"; fi
  mv "$partial" "$folder"
  say "$name $version done in $((SECONDS - started)) s"
}

link_all() {
  local bin=$1 partial=$1.partial.$$ group
  rm -rf "$bin".partial.*
  mkdir -p "$partial"
  for group in "${groups[@]}"; do ln -s "$(folder_of "$group")"/* "$partial/"; done
  if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then ln -s "$KUBEBUILDER_ASSETS"/* "$partial/"; fi
  rm -rf "$bin"
  mv "$partial" "$bin"
}

main() {
  local bin group
  bin=$(path)
  if [ "${1:-}" = path ]; then echo "$bin"; return; fi
  mkdir -p "$tools"
  exec 9>"$tools/.lock"
  if ! flock --nonblock 9; then say "another build holds $tools/.lock; waiting for it"; flock 9; fi
  export GOMODCACHE=${GOMODCACHE:-$cache/go/mod} GOCACHE=${GOCACHE:-$cache/go/build} CGO_ENABLED=0 GOWORK=off
  for group in "${groups[@]}"; do
    [ -d "$(folder_of "$group")" ] || (build "$group" "$(folder_of "$group")")
  done
  [ -d "$bin" ] || link_all "$bin"
  echo "$bin"
}

main "$@"
