#!/usr/bin/env bash
# Writes the generated files anew: those that a test compares with what the code gives.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Custom resource definitions and the schema of the values, from the Rust types.
UPDATE=1 cargo test --quiet -p cadastre-runtime --test generated
# The tables of metrics, from what operator and agent register.
UPDATE=1 cargo test --quiet -p cadastre-operator -p cadastre-agent the_documentation_lists_them
# The tables of values and permissions, from the chart.
UPDATE=1 cargo test --quiet -p cadastre-runtime --test chart in_the_documentation
git status --short -- charts docs
