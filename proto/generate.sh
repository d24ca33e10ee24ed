#!/usr/bin/env bash
# Generates the Python code of each .proto (messages, their types, stubs): beside it, or below OUT.
#   proto/generate.sh [OUT]
#   proto/generate.sh --check    fails when what lies beside the .proto files is not what they generate
set -euo pipefail
cd "$(dirname "$0")/.."

generate() { # generate OUT ROOT FILE...: import paths are relative to ROOT
  local out=$1/$2 root=$2; shift 2
  mkdir -p "$out"
  PATH="$PWD/.venv/bin:$PATH" python -m grpc_tools.protoc -I"$root" --python_out="$out" --grpc_python_out="$out" \
    --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" "$@"
}

all() { # all OUT
  generate "$1" proto proto/n8s/v1/*.proto proto/n8s/kubelet/*.proto
  generate "$1" . deploy/local/pb/*.proto
}

if [ "${1:-}" != --check ]; then
  all "${1:-.}"
  exit
fi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
all "$fresh"
stale=0
while read -r file; do
  cmp -s "$fresh/$file" "$file" || { echo "$file is not what its .proto generates: run make proto" >&2; stale=1; }
done < <(cd "$fresh" && find . -type f)
exit $stale
