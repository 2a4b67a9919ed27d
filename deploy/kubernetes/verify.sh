#!/bin/sh
# Check the manifest against the schemas of the oldest and the newest Kubernetes that the checker has; an unknown field
# is a mistake.  The checker is installed into a virtual environment of its own, made with the Python that PYTHON names.
set -eu
manifest=$(dirname "$0")/dotproxy.yaml
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"${PYTHON:-python3}" -m venv "$scratch/venv"
if ! "$scratch/venv/bin/pip" install --quiet kubernetes-validate; then
    echo "THE KUBERNETES MANIFEST WAS NOT CHECKED: kubernetes-validate could not be installed"
    exit 0
fi
ends='from kubernetes_validate.utils import all_versions as every; print("-k", every()[0], "-k", every()[-1])'
# shellcheck disable=SC2046  # a list of words is meant
"$scratch/venv/bin/kubernetes-validate" --strict $("$scratch/venv/bin/python" -c "$ends") "$manifest"
