#!/usr/bin/env bash
# Run the tests: bash script_test.sh [pytest options]. They need no GPU, no data and no network.
# The tests that take minutes: bash script_test.sh -m slow
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script_environment.sh"
cd "$REPOSITORY"
"$PYTHON" -m pytest "$@"
