"""``python -m local COMMAND``: the entrance to the local stack; the Makefile calls it."""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from local import commands
from local.backfill import Asked, backfill, cancel
from local.cloud import deploy_to_aws
from local.compose import compose_clean, compose_down, compose_up
from local.console import Screen
from local.containers import compose_deploy
from local.errors import LocalError
from local.sam_local import sam_api, sam_invoke
from local.settings import Settings

PREVIEWED = ("symbol", "asset_id", "currency", "dates", "numbers", "interval")
"""What may be said of a file that is previewed."""
COMMANDS = {
    "run": commands.run,
    "up": commands.up,
    "clean": commands.clean,
    "status": commands.status,
    "refresh": commands.refresh,
    "migrate": commands.migrate,
    "rebuild": commands.rebuild,
    "build": commands.build,
    "validate": commands.validate,
    "compose-up": compose_up,
    "compose-down": compose_down,
    "compose-clean": compose_clean,
    "compose-deploy": compose_deploy,
    "sam-api": sam_api,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        subparsers.add_parser(name, help=(function.__doc__ or "").partition("\n")[0])
    down = subparsers.add_parser("down", help="End every process of the stack; keep the data.")
    down.add_argument("--nested", action="store_true", help="also for folders in its state folder")
    logs = subparsers.add_parser("logs", help="Show a log and what is added to it.")
    logs.add_argument("part", nargs="?", default="lambda")
    _add_backfill(subparsers.add_parser("backfill", help="Fetch the past from a source."))
    cancel = subparsers.add_parser("cancel", help="Cancel a backfill.")
    cancel.add_argument("run", help="the backfill's run")
    preview = subparsers.add_parser("preview", help="Show what a CSV would become.")
    preview.add_argument("--file", default="", help="the file")
    preview.add_argument("--key", default="", help="the key that it will have in the bucket")
    for name in PREVIEWED:
        preview.add_argument(f"--{name.replace('_', '-')}", default="")
    deploy = subparsers.add_parser("deploy", help="Deploy to AWS.")
    deploy.add_argument("environment")
    invoke = subparsers.add_parser("sam-invoke", help="Invoke a function by sam local.")
    invoke.add_argument("function", help="a folder of functions/")
    invoke.add_argument("event", help="a file with JSON, such as those in events/")
    return parser


def _add_backfill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", required=True)
    parser.add_argument("--assets", default="", help="ids or tickers, separated by commas")
    parser.add_argument("--top", default="", help="in place of them, so many by market cap")
    parser.add_argument("--days", default="", help="so many days up to the end")
    parser.add_argument("--start", default="", help="in place of them, a date or a time")
    parser.add_argument("--end", default="", help="by default now")
    parser.add_argument("--interval", default="", help="5m, 1h or 1d; by default by the range")
    parser.add_argument("--gaps", default="", help="anything for only what is missing")


def _stop(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> int:
    """Run one command. Returns the exit status; not 0 when it failed, with the reason on stderr."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    screen = Screen()
    try:
        # What .env sets for the local stack must not get to AWS.
        no_file = Path(os.devnull) if arguments.command == "deploy" else None
        settings = Settings.load(dotenv=no_file)
        if arguments.command == "logs":
            commands.logs(settings, screen, arguments.part)
        elif arguments.command == "preview":
            from local.preview import preview  # noqa: PLC0415 - only it knows the library

            given = {name: getattr(arguments, name) for name in PREVIEWED}
            preview(screen, arguments.file, arguments.key, given)
        elif arguments.command == "backfill":
            backfill(settings, screen, Asked.read(vars(arguments)))
        elif arguments.command == "cancel":
            cancel(settings, screen, arguments.run)
        elif arguments.command == "down":
            commands.down(settings, screen, nested=arguments.nested)
        elif arguments.command == "deploy":
            deploy_to_aws(settings, screen, arguments.environment)
        elif arguments.command == "sam-invoke":
            sam_invoke(settings, screen, arguments.function, arguments.event)
        else:
            COMMANDS[arguments.command](settings, screen)
    except LocalError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
