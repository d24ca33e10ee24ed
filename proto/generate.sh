#!/usr/bin/env bash
# Generates the Python code of each .proto beside it: messages, typed messages, typed stubs.
set -euo pipefail
cd "$(dirname "$0")/.."
generate() { # generate ROOT FILE...: import paths are relative to ROOT
  local root=$1; shift
  PATH="$PWD/.venv/bin:$PATH" python -m grpc_tools.protoc -I"$root" --python_out="$root" --grpc_python_out="$root" \
    --mypy_out="quiet:$root" --mypy_grpc_out="quiet:$root" "$@"
}
generate proto proto/n8s/v1/*.proto proto/n8s/kubelet/*.proto
if ls deploy/local/pb/*.proto >/dev/null 2>&1; then generate . deploy/local/pb/*.proto; fi
