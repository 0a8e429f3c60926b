#!/usr/bin/env bash
# What the service `deploy` of docker-compose.yml runs: sets up the tools in the volume /project,
# beside a copy of the clone's sources, builds and deploys. Nothing but stack.json is written into
# the clone: what is built in here is for this container's paths and this container's user.
set -euo pipefail

# Certificates of this machine beyond the usual ones, as a proxy that looks into TLS needs them.
if [ -s /certificates.pem ]; then
    export SSL_CERT_FILE=/certificates.pem PIP_CERT=/certificates.pem REQUESTS_CA_BUNDLE=/certificates.pem
fi
exec 9>/project/.lock
flock 9

# The image has make and Python's venv; one made in its likeness may not.
export PATH=/project/bin:$PATH
if ! command -v make >/dev/null || ! { [ -x /project/.local/envs/uv/bin/uv ] || python3 -c 'import ensurepip'; } 2>/dev/null; then
    echo "deploy: installing make and Python's venv"
    { apt-get update && apt-get install --yes --no-install-recommends make python3-venv; } \
        >/project/apt.log 2>&1 </dev/null || { tail -n 20 /project/apt.log >&2; exit 1; }
    install -D "$(command -v make)" /project/bin/make  # kept for the next time
fi

sources="template.yaml samconfig.toml .python-version functions layers local requirements statemachines"
cd /project
# shellcheck disable=SC2086  # names without blanks
rm -rf $sources
# shellcheck disable=SC2086
tar --create --directory /clone --exclude __pycache__ --exclude '*.egg-info' $sources | tar --extract

export UV_CACHE_DIR=/project/.cache
./local/bootstrap.sh dev sam
exec .venv/bin/python -m local compose-deploy
