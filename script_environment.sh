# Sourced by the scripts: after it, $PYTHON is an interpreter that satisfies requirements.txt.
# That is the active Python if it already does, else .venv, made and filled here.

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

satisfies_requirements() {
    "$1" - "$REPOSITORY/requirements.txt" <<'PYTHON'
import re, sys
from importlib.metadata import PackageNotFoundError, version

def release(text):
    return [int(part) for part in re.match(r"\d+(\.\d+)*", text)[0].split(".")]

missing = [] if sys.version_info >= (3, 10) else ["Python 3.10"]
for line in open(sys.argv[1]):
    name, minimum = line.strip().split(">=")
    try:
        if release(version(name)) < release(minimum):
            missing.append(line.strip())
    except PackageNotFoundError:
        missing.append(line.strip())
print(", ".join(missing))
sys.exit(bool(missing))
PYTHON
}

find_python() {
    local candidate missing
    for candidate in python3 python; do
        if command -v "$candidate" >/dev/null && missing="$(satisfies_requirements "$candidate")"; then
            PYTHON="$candidate"
            return
        fi
    done
    PYTHON="$REPOSITORY/.venv/bin/python"
    if [ ! -x "$PYTHON" ]; then
        echo "the active Python lacks: ${missing:-a Python 3}; making .venv"
        python3 -m venv "$REPOSITORY/.venv" || {
            echo "python3 -m venv failed: install Python 3.10 or newer with its venv module" >&2
            return 1
        }
    fi
    if ! missing="$(satisfies_requirements "$PYTHON")"; then
        echo "installing $missing into .venv (PyTorch is large: this can take minutes)"
        "$PYTHON" -m pip install -r "$REPOSITORY/requirements.txt" || {
            echo "the installation failed; its messages are above. Mend it and run this again" >&2
            return 1
        }
    fi
}

find_python || exit 1
