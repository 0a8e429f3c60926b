#!/usr/bin/env bash
# Runs pytest, and ends whatever the tests have left running, however pytest ends.
# Usage: local/test.sh [pytest's arguments]
#
# The tests have a state folder of their own, named after this process, so that they disturb neither
# the stack of `make run` nor another `make test`. It stays when a test fails, with all logs in it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export LOCAL_STATE_DIR=.local/test-$$
pytest=""

# Ends all processes of the tests in folder $1.
end_processes() {
    LOCAL_STATE_DIR=$1 ENV_FILE=/dev/null .venv/bin/python -m local down --nested >/dev/null
}

end() {
    status=$?
    trap - EXIT
    trap '' HUP INT TERM
    if [ -n "$pytest" ] && kill -0 "$pytest" 2>/dev/null; then
        kill -INT -- "-$pytest" 2>/dev/null
        wait "$pytest"
    fi
    for folder in "$LOCAL_STATE_DIR" "$LOCAL_STATE_DIR"-*; do
        if [ -d "$folder" ]; then
            end_processes "$folder" || status=1
            if [ "$status" -eq 0 ]; then rm -rf "$folder"; fi
        fi
    done
    exit "$status"
}
trap end EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# What an earlier call left that was killed, or that failed.
for folder in .local/test-[0-9]*; do
    owner=${folder#.local/test-}
    if [ -d "$folder" ] && ! kill -0 "${owner%%-*}" 2>/dev/null; then
        end_processes "$folder" && rm -rf "$folder"
    fi
done

# A process group of its own and in the background, so that a request to stop reaches this script at
# once, which then lets pytest end what the tests have started.
set -m
.venv/bin/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder "$@" </dev/null &
pytest=$!
wait "$pytest"
