"""``python -m local.replay --port PORT``: serve the samples on loopback until terminated."""

import argparse
import signal
import sys

from local.replay.server import ReplayServer


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m local.replay", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="another one only inside a container")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--requests-per-minute",
        type=int,
        default=0,
        help="how many requests each API takes in a minute, 429 beyond; 0 for any number",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    address = (arguments.host, arguments.port)
    with ReplayServer(address, requests_per_minute=arguments.requests_per_minute) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
