# shellcheck shell=bash
# Which interpreters there are, and the tests of each. What is to be tested stands in `queue`; a
# lane takes one after the other. `.ci/run` sources this, after debian.sh.

# The interpreter of a version: from pyenv if it has one, else from PATH.
find_python() {
    local root=${PYENV_ROOT:-$HOME/.pyenv} found
    found=$(printf '%s\n' "$root/versions/$1".*/bin/python | sort -V | tail -n 1)
    [ -x "$found" ] || found=
    if [ -z "$found" ] && command -v "python$1" >/dev/null && "python$1" -c '' 2>/dev/null; then
        found=$(command -v "python$1")
    fi
    printf '%s' "$found"
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# Runs a command that runs tests: `steadily WHAT VERSION COMMAND…`. Those that fail run once more:
# three lanes on two cores keep no test's time. What passes then is named at the end as unsteady;
# what fails twice, or ends the interpreter, decides.
steadily() {
    local what=$1 failures=.venv-$2/pytest-cache/v/cache/lastfailed
    shift 2
    rm -f "$failures"
    "$@" && return
    say "what failed with $what runs once more"
    [ -s "$failures" ] || return
    sed -e "s/^/unsteady, $what: /" -e '/[{}]$/d' "$failures" >"$failures.names"
    PYTEST_ADDOPTS=--last-failed "$@" || return
    cat "$failures.names" >>"$notes"
}

# Puts what is in this checkout, but for what was built or cached, into a folder of its own.
copy_checkout() {
    mkdir -p "$1"
    find "$1" -mindepth 1 -maxdepth 1 ! -name target ! -name '.venv*' -exec rm -rf {} +
    tar -c --exclude='./target' --exclude='./.venv*' --exclude='./.git' --exclude='./.*_cache' --exclude='./.hypothesis' \
        --exclude='__pycache__' --exclude='*.so' . | tar -x -C "$1"
}

# Builds the extension module in less time, and less optimised than for the newest interpreter. For
# the compiler's allocator, huge pages: it reads all over its memory.
quickly() {
    env MALLOC_CONF=thp:always CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_PROFILE_RELEASE_OPT_LEVEL=1 make build PYTHON="$1"
}

# The tests of one interpreter: `here PYTHON`, `debian VERSION`, or `later VERSION`.
test_interpreter() {
    local kind=$1 which=$2 python=/usr/bin/python$2 version=$2
    case $kind in
        here)
            version=$(version_of "$which")
            # All tests with the newest; the others have those that depend on the interpreter.
            local targets=(test-python test-conformance)
            if [ "$which" = "$newest" ]; then targets=(test); else quickly "$which" || return; fi
            steadily "$which" "$version" make "${targets[@]}" PYTHON="$which"
            ;;
        debian)
            in_debian bash -c "$(declare -f quickly); quickly $python" || return
            steadily "Debian's Python $which" "$which" in_debian make test-python test-conformance PYTHON="$python"
            ;;
        # Its extension module has the same name as that of the release that is here: both would be
        # the one built last.
        later)
            copy_checkout "target/later-$which" && cd "target/later-$which" || return
            in_debian bash -c "$(declare -f quickly); quickly $python" || return
            steadily "Debian's Python $which" "$which" in_debian make test-python test-conformance PYTHON="$python"
            ;;
    esac
}

# Fills `queue` with what is to be tested, and `newest` with the newest interpreter that is here.
# That one comes last, as the first lane builds it.
find_interpreters() {
    local version python here=()
    queue=()
    for version in "${versions[@]}"; do
        python=$(find_python "$version") why="not found with pyenv or on PATH"
        if [ -n "$python" ]; then
            here+=("$python")
        elif [[ " ${debian_versions[*]} " == *" $version "* ]] && have_debian; then
            queue+=("debian $version")
        else
            skip "Python $version: $why"
        fi
    done
    [ ${#here[@]} -gt 0 ] || { echo "none of Python ${versions[*]} is here" >&2; return 1; }
    newest=${here[-1]}
    for version in "${debian_later[@]}"; do
        if have_debian; then queue+=("later $version"); else skip "Debian's Python $version: $why"; fi
    done
    for python in "${here[@]}"; do [ "$python" = "$newest" ] || queue+=("here $python"); done
    queue+=("here $newest")
}

# A lane: each interpreter that no other lane has taken, whatever becomes of the one before.
take() {
    local number kind which status=0
    for number in "${!queue[@]}"; do
        mkdir "$taken/$number" 2>/dev/null || continue
        read -r kind which <<<"${queue[number]}"
        while [ "$which" = "$newest" ] && [ ! -e "$taken/built" ]; do sleep 1; done
        {
            say "make test: $kind $which"
            ( test_interpreter "$kind" "$which" ) || { status=1; wrong "$kind $which"; }
            say "done: $kind $which"
        } >"$taken/$number/log" 2>&1
    done
    return "$status"
}
