# Sourced by the scripts of blocks, one configuration each: a function that begins "name() { # what it is".

cd "$(dirname "${BASH_SOURCE[0]}")"

run() { # a script and its flags; DRY_RUN=1 only prints the command
    printf '+ python %s\n' "$*"
    [ -n "${DRY_RUN:-}" ] && return
    [ -n "${PYTHON:-}" ] || source ./script_environment.sh
    "$PYTHON" "$@"
}

run_blocks() { # run the blocks that are named, or list those that there are
    local file="${BASH_SOURCE[1]##*/}" name names
    names="$(sed -nE 's/^([a-z0-9_]+)\(\) \{ # .*/\1/p' "$file")"
    for name in "$@"; do
        if ! grep -qx -- "$name" <<<"$names"; then
            echo "error: $file has no block '$name'; without a name it lists them" >&2
            return 2
        fi
    done
    for name in "$@"; do "$name"; done
    if [ $# = 0 ]; then
        echo "blocks of $file; name those to run (DRY_RUN=1 only prints their commands):"
        sed -nE 's/^([a-z0-9_]+)\(\) \{ # (.*)/  \1\t\2/p' "$file" | expand -t 34
    fi
}
