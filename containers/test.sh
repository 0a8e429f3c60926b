#!/usr/bin/env bash
# Runs the end-to-end tests against the stack in containers, and those that only it has; ends the
# containers, however the tests end.
# Usage: containers/test.sh containers|sam [pytest's further arguments]
#
# With `sam`, the API is asked under `sam local start-api`; what deploys other settings, and what
# tries the gateway rather than the API, is not run again.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kind=$1
shift
case "$kind" in
    containers) ;;
    sam) set -- -m "not changes_the_stack" --ignore tests/e2e/test_gateway_schemathesis.py "$@" ;;
    *)
        echo "usage: $0 containers|sam" >&2
        exit 2
        ;;
esac
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
./local/test.sh --numprocesses 0 -p tests.support.patience tests/e2e "$@" &
tests=$!
wait "$tests"
