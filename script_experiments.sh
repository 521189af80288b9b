# Sourced by scripts that define experiments, one function each: name() { # description

cd "$(dirname "${BASH_SOURCE[0]}")"

run() { # print and run a command; with DRY_RUN=1 only print it
    printf '+ python%s\n' "$(printf ' %q' "$@")"
    [ -n "${DRY_RUN:-}" ] && return
    [ -n "${PYTHON:-}" ] || source ./script_environment.sh
    "$PYTHON" "$@"
}

run_experiments() { # run the named experiments; without arguments list them
    local file="${BASH_SOURCE[1]##*/}" name names
    names="$(sed -nE 's/^([a-z0-9_]+)\(\) \{ # .*/\1/p' "$file")"
    for name in "$@"; do
        if ! grep -qx -- "$name" <<<"$names"; then
            echo "error: $file has no experiment '$name'; run it without arguments to list them" >&2
            return 2
        fi
    done
    for name in "$@"; do "$name"; done
    if [ $# = 0 ]; then
        echo "experiments in $file; name the ones to run (DRY_RUN=1 only prints their commands):"
        sed -nE 's/^([a-z0-9_]+)\(\) \{ # (.*)/  \1\t\2/p' "$file" | expand -t 34
    fi
}
