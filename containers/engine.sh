#!/usr/bin/env bash
# Makes sure that Docker and the images of docker-compose.yml are there, for machines that test:
# installs and starts the engine where there is none, and where no registry can be reached, builds
# stand-ins of the images by the script named in the first argument. Fails if any of it cannot be
# done. Needs root where something is to be installed or started.
# Usage: containers/engine.sh [SCRIPT]
#        containers/engine.sh --end     ends the engine that an earlier call has started
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

READY_SECONDS=90
END_SECONDS=60 # it ends what runs in it first
LOGS=.local/logs
STARTED=$LOGS/dockerd.pid
mkdir -p "$LOGS"

say() { printf 'docker: %s\n' "$*"; }

fail() {
    printf 'docker: error: %s\n' "$1" >&2
    if [ -n "${2:-}" ] && [ -f "$2" ]; then tail -n 25 "$2" >&2; fi
    exit 1
}

answers() { docker info >/dev/null 2>&1; }

install_packages() {
    say "installing $*"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"; } \
        >"$LOGS/docker-install.log" 2>&1 </dev/null || fail "$* could not be installed" "$LOGS/docker-install.log"
}

is_running() { [ "$(ps -o comm= -p "$2" 2>/dev/null)" = "$1" ]; } # NAME NUMBER
is_engine() { is_running dockerd "$1"; }

# What an engine that was killed leaves: where another process has its number by now, the next one
# refuses to start, or waits for a containerd that is none.
remove_stale() { # NAME FILE
    if [ -f "$2" ] && ! is_running "$1" "$(cat "$2")"; then rm -f "$2"; fi
}

start_engine() {
    remove_stale dockerd /var/run/docker.pid
    remove_stale containerd /var/run/docker/containerd/containerd.pid
    say "starting the engine"
    setsid dockerd >"$LOGS/dockerd.log" 2>&1 </dev/null &
    engine=$!
    echo "$engine" >"$STARTED" # before it answers: one that never does is to be ended too
    deadline=$((SECONDS + READY_SECONDS))
    until answers; do
        kill -0 "$engine" 2>/dev/null || fail "the engine ended at once" "$LOGS/dockerd.log"
        [ $SECONDS -lt $deadline ] || fail "the engine does not answer after $READY_SECONDS s" "$LOGS/dockerd.log"
        sleep 0.5
    done
}

end_engine() {
    [ -f "$STARTED" ] || { say "no engine was started here"; return; }
    engine=$(cat "$STARTED")
    deadline=$((SECONDS + END_SECONDS))
    if is_engine "$engine"; then kill -TERM "$engine"; fi
    while is_engine "$engine"; do
        [ $SECONDS -lt $deadline ] || fail "the engine (process $engine) does not end" "$LOGS/dockerd.log"
        sleep 0.2
    done
    rm -f "$STARTED"
    say "the engine has ended"
}

# The images that this machine starts: those of the compose file, and those of functions, once for
# LocalStack and once for SAM, which asks for its own machine's.
images() {
    docker compose --env-file /dev/null config --images | sort -u
    case "$(uname -m)" in aarch64 | arm64) machine=arm64 ;; *) machine=x86_64 ;; esac
    printf 'public.ecr.aws/lambda/python:3.13\npublic.ecr.aws/lambda/python:3.13-%s\n' "$machine"
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

if [ "${1:-}" = --end ]; then
    end_engine
    exit
fi

STAND_INS=${1:-}
remove_stale dockerd "$STARTED"
if ! answers; then
    command -v dockerd >/dev/null || install_packages docker.io
    answers || start_engine # a package may have started it
fi
say "engine $(docker version --format '{{.Server.Version}}')"

if ! docker compose version >/dev/null 2>&1 && [ ! -f "$STAND_INS" ]; then
    fail "Docker Compose v2 is missing: install the plugin docker-compose"
fi
if ! docker compose version >/dev/null 2>&1 || [ -n "$(docker image ls --quiet --filter label=stand-in.key)" ]; then
    build=1 # stand-ins are here; their script looks whether they are still right
else
    build=""
    for image in $(images); do
        if ! has_image "$image" && ! timeout 600 docker pull --quiet "$image" >>"$LOGS/docker-pull.log" 2>&1; then
            [ -f "$STAND_INS" ] || fail "$image cannot be pulled" "$LOGS/docker-pull.log"
            build=1
            break
        fi
    done
fi
if [ -n "$build" ]; then
    [ -f "$STAND_INS" ] || fail "the stand-in images need their script as the argument"
    say "building stand-ins of the images, or making sure that they are up to date"
    command -v debootstrap >/dev/null || install_packages debootstrap
    bash "$STAND_INS" >"$LOGS/docker-images.log" 2>&1 || fail "the images could not be built" "$LOGS/docker-images.log"
fi
for image in $(images); do
    has_image "$image" || fail "the image $image is missing" "$LOGS/docker-images.log"
done
say "images are here"
