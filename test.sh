#!/usr/bin/env bash
# Installs lwcl with all that its tests need into .venv-ci, then checks style, types and behaviour.
# Words given to it go to pytest: `bash test.sh -k queue`, `bash test.sh -m ""` (the slow tests too).
# COVERAGE=1 also measures which lines the tests run, and fails below the share that pyproject.toml asks for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
  echo "test.sh: $1" >&2
  exit 1
}

# The Python to test with: $PYTHON, or the first of these that is 3.11 or newer.
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
for python in ${PYTHON:-python3.11 python3 python} ""; do
  if [[ -n $python ]] && "$python" -c "$new_enough" 2>/dev/null; then break; fi
done
[[ -n $python ]] || fail "no Python of 3.11 or newer; name one: PYTHON=/path/to/python3.11 bash test.sh"

# Exact versions where they were tested, the ranges of pyproject.toml elsewhere.
constraints=()
if [[ $("$python" -c 'import platform, sys; print(*sys.version_info[:2], sys.platform, platform.machine())') == "3 11 linux x86_64" ]]; then
  constraints=(-c tests/constraints.txt)
fi

# The environment is made anew when what it was made from has changed.
venv=.venv-ci
made_from=$({ "$python" -VV; cat pyproject.toml tests/constraints.txt; } | cksum)
if [[ ! -f $venv/made-from || $(cat "$venv/made-from") != "$made_from" ]]; then
  rm -rf "$venv"
  "$python" -m venv "$venv"
  echo '*' > "$venv/.gitignore"
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check ${constraints[@]+"${constraints[@]}"} ".[dev]"
  echo "$made_from" > "$venv/made-from"
else
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --force-reinstall .
fi

step() {
  echo "== $*"
  "$venv/bin/python" -m "$@"
}

step pip check
step ruff check .
step ruff format --check .
step mypy
coverage=()
if [[ -n ${COVERAGE:-} ]]; then coverage=(--cov --cov-report=term:skip-covered); fi
step pytest -m "not slow" -n 2 --dist loadfile ${coverage[@]+"${coverage[@]}"} "$@"
