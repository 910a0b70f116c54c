#!/usr/bin/env bash
# Installs what the tests need and runs them, two files at a time; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
launch/install.sh test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
