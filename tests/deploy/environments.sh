#!/usr/bin/env bash
# The environments of services as their Dockerfiles make them, from the package index: what they hold starts
# their workers. Usage: environments.sh PYTHON [SERVICE...]; by default those without torch.
set -euo pipefail
unset PYTHONPATH
root=$(cd "$(dirname "$0")/../.." && pwd)
python=$1
shift
[ $# -gt 0 ] || set -- intake fetch publish
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

for service in "$@"; do
  environment=$folder/$service
  "$python" -m venv --without-pip "$environment"
  pip=("$python" -m pip --quiet --disable-pip-version-check --python "$environment" install --no-deps)
  "${pip[@]}" --requirement "$root/services/$service/requirements.lock"
  (cd "$root" && PIP_CONSTRAINT=requirements.lock PIP_BUILD_CONSTRAINT=requirements.lock "${pip[@]}" .)
  stage=$service
  [ "$service" != compile ] || stage=convert
  (
    cd "$folder"
    "$environment/bin/corepress" worker "$stage" --help >/dev/null
    "$environment/bin/python" -c "import corepress.fleet, corepress_$service"
  )
  has_torch=$("$environment/bin/python" -c 'import importlib.util as u; print(u.find_spec("torch") is not None)')
  echo "$service: its worker starts, torch: $has_torch, $(du -sm "$environment" | cut -f1) MB"
done
