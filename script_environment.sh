# Sourced by the other scripts. Sets REPOSITORY, and PYTHON to an interpreter that satisfies
# requirements.txt: the active Python if it does, otherwise that of .venv, which is created if needed.

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

missing_requirements() { # print what an interpreter lacks; fails if there is something
    "$1" - "$REPOSITORY/requirements.txt" <<'PYTHON'
import re, sys
from importlib import metadata

def release(version):
    return [int(part) for part in re.match(r"\d+(\.\d+)*", version)[0].split(".")]

missing = [] if sys.version_info >= (3, 10) else ["Python 3.10 or newer"]
for requirement in open(sys.argv[1]).read().split():
    name, minimum = requirement.split(">=")
    try:
        if release(metadata.version(name)) < release(minimum):
            missing.append(requirement)
    except metadata.PackageNotFoundError:
        missing.append(requirement)
print(", ".join(missing))
sys.exit(bool(missing))
PYTHON
}

find_python() {
    local active missing="Python 3"
    for active in python3 python; do
        if command -v "$active" >/dev/null && missing="$(missing_requirements "$active")"; then
            PYTHON="$active"
            return
        fi
    done
    PYTHON="$REPOSITORY/.venv/bin/python"
    if [ ! -x "$PYTHON" ]; then
        echo "The active Python lacks: $missing. Creating .venv."
        python3 -m venv "$REPOSITORY/.venv" || {
            echo "error: python3 -m venv failed; install Python 3.10 or newer with its venv module" >&2
            return 1
        }
    fi
    missing_requirements "$PYTHON" >/dev/null && return
    echo "Installing requirements.txt into .venv. PyTorch is large; this can take several minutes."
    "$PYTHON" -m pip install -r "$REPOSITORY/requirements.txt" || {
        echo "error: the installation failed (see above); fix the cause and run this script again" >&2
        return 1
    }
}

find_python || exit 1
