#!/usr/bin/env bash
# Runs end-to-end tests against the stack in containers: those of the pipeline, and those that only
# this kind of stack has. What it must prove is that the system works in containers; the system's
# other behaviour is tested without them. Ends the containers, however the tests end.
# Usage: containers/test.sh containers|sam [tests or pytest's other arguments instead]
#
# With `sam`, the API is asked under `sam local start-api`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kind=$1
shift
case "$kind" in
    containers | sam) ;;
    *)
        echo "usage: $0 containers|sam" >&2
        exit 2
        ;;
esac
if [ $# -eq 0 ]; then set -- tests/e2e/pipeline tests/e2e/containers; fi
# Once and in one line, rather than as the error of every test.
if ! docker info >/dev/null || ! docker compose version >/dev/null; then
    echo "these tests need Docker with Compose v2 (containers/engine.sh sets it up)" >&2
    exit 1
fi
export TEST_STACK=$kind TEST_PATIENCE=${TEST_PATIENCE:-3}
export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-marketdata-test}

tests=""
end() {
    status=$?
    trap - EXIT
    trap '' HUP INT TERM
    if [ -n "$tests" ] && kill -TERM "$tests" 2>/dev/null; then wait "$tests"; fi
    # A state folder of its own: the one of a stack in containers that is up must not be touched.
    if ! LOCAL_STATE_DIR=.local/ended-containers ENV_FILE=/dev/null \
        .venv/bin/python -m local compose-down >.local/logs/compose-down.log 2>&1; then
        echo "the containers of $COMPOSE_PROJECT_NAME could not be ended:" >&2
        cat .local/logs/compose-down.log >&2
        if [ "$status" -eq 0 ]; then status=1; fi
    fi
    exit "$status"
}
trap end EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# One process, since there is one stack. In the background, so that a request to stop reaches this
# script at once.
./local/test.sh --numprocesses 0 -p tests.support.patience "$@" &
tests=$!
wait "$tests"
