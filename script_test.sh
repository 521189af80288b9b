#!/usr/bin/env bash
# Run the tests: bash script_test.sh [pytest options]. Needs no GPU, no data, no network once
# the requirements are there. The long checks: bash script_test.sh -m slow
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script_environment.sh"
cd "$REPOSITORY"
"$PYTHON" -m pytest "$@"
