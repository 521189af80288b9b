#!/usr/bin/env bash
# Run the tests: bash script_test.sh [pytest options]. They need no GPU, no data and no network.
# They run in two processes; -n 0 runs them in one. The tests that take minutes: bash script_test.sh -m slow
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script_environment.sh"
cd "$REPOSITORY"
"$PYTHON" -m pytest -n 2 "$@"
