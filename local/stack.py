"""The stack as a whole: bring it up, take it down, say how it is."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pymongo
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from local.build import ENVS, build, locked
from local.console import Screen, Step
from local.contents import Contents, contents_of
from local.deploy import Deployment
from local.errors import CommandError, LocalError
from local.localstack import LocalStack
from local.mongod import Mongod
from local.orphans import end_orphans
from local.processes import (
    Part,
    end_all,
    leftovers,
    memory_bytes,
    tail,
    wait_until_vanished,
    write_atomically,
)
from local.replay.service import Replay
from local.settings import ROOT, Settings
from local.upstream import Choice, choose, summary
from marketdata.masking import masked

HEARTBEAT_SECONDS = 10
POLL_SECONDS = 0.05
KEPT_BY_CLEAN = {"envs"}

RUNS_IN = "containers"
"""What ``stack.json`` of the stack in containers says under ``runs_in``."""


@dataclass(frozen=True)
class PartStatus:
    """How one part is doing; memory in bytes."""

    name: str
    state: str
    pid: int | None = None
    port: int | None = None
    memory: int | None = None
    detail: str = ""


class Stack:
    """Everything that runs for one state folder."""

    def __init__(self, settings: Settings, screen: Screen) -> None:
        self.settings = settings
        self.screen = screen
        self.state = settings.local_state_dir
        self.mongod = Mongod(
            self.state, ENVS, settings.mongodb_port, cache_gb=settings.mongodb_cache_gb
        )
        self.localstack = LocalStack(
            self.state, ENVS, settings.localstack_port, region=settings.aws_region
        )
        self.replay = Replay(self.state, settings.replay_port, settings.replay_requests_per_minute)
        self.deployment = Deployment(settings)
        self._started: list[Mongod | LocalStack | Replay] = []
        self._needed: list[Part] = []

    # --- files --------------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        """``stack.json``, which tells scripts and tests where everything is."""
        return self.state / "stack.json"

    @property
    def _deployed(self) -> Path:
        return self.state / "deployed.json"

    def description(self) -> dict[str, Any] | None:
        """Return what ``stack.json`` says, or None when the stack is not up."""
        try:
            content = json.loads(self.file.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    @property
    def in_containers(self) -> bool:
        """Whether ``stack.json`` is that of the stack in containers, which Docker ends."""
        return (self.description() or {}).get("runs_in") == RUNS_IN

    @property
    def mongodb_uri(self) -> str:
        """Connection string of the database that the stack uses."""
        return self.settings.mongodb_uri or self.mongod.uri

    # --- up -----------------------------------------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold off other commands that start or stop this stack."""
        with locked(
            self.state / "lock",
            waiting=lambda: self.screen.say(
                f"waiting for another command on this stack ({self.state / 'lock'})"
            ),
        ):
            yield

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """End what was started in here if it fails or is interrupted."""
        try:
            yield
        except BaseException:
            with _uninterrupted():
                for part in reversed(self._started):
                    part.stop()
                if self._started:
                    self.file.unlink(missing_ok=True)
                    self._deployed.unlink(missing_ok=True)
            raise

    def up(self) -> dict[str, Any]:
        """Start what does not run, deploy what has changed. Returns what ``stack.json`` says.

        Raises:
            LocalError: it could not be done; what this call started has ended again by then.
        """
        with self.alone(), self.undone_on_failure(), ThreadPoolExecutor(1) as background:
            # The slow ones first: they start while the template is being built.
            self._launch(self.localstack)
            if self.settings.mongodb_uri is None:
                self._launch(self.mongod)
            else:
                self.mongod.stop()
            choosing = background.submit(choose, self.settings)
            with self.screen.step("building the template (sam build)") as step:
                built, anew = build(self.runner("build", step))
                step.done("built the template" if anew else "the template has not changed")
            self._await_mongodb()
            self._migrate()
            with self.screen.step("starting LocalStack") as step:
                self.localstack.wait_until_ready()
                step.done(f"LocalStack at {self.localstack.address}")
            choices = choosing.result()
            self._serve_samples(choices)
            outputs = self._deploy(built, choices)
            for part in self._needed:
                part.check()
            description = self._describe(outputs, choices)
            write_atomically(
                self.file, json.dumps(description, indent=2) + "\n", mode=0o600
            )  # it holds the token
            return description

    def _launch(self, service: Mongod | LocalStack | Replay) -> None:
        part = service.part
        if part.started_once and part.process() is None:
            self.screen.say(
                f"  {part.name} had stopped by itself; starting it again (its log: {part.log})"
            )
        if service.start():
            self._started.append(service)
        self._needed.append(part)

    def _await_mongodb(self) -> None:
        if self.settings.mongodb_uri is None:
            with self.screen.step("starting mongod") as step:
                self.mongod.wait_until_ready()
                step.done(
                    f"mongod at 127.0.0.1:{self.mongod.port}, data in {_short(self.mongod.data)}"
                )
            return
        with self.screen.step("connecting to the MongoDB of MONGODB_URI") as step:
            hosts = _ping(self.settings.mongodb_uri)
            step.done(f"MongoDB of MONGODB_URI ({hosts})")

    def _migrate(self) -> None:
        with self.screen.step("preparing collections and indexes (migrate)") as step:
            self.migrate(step)
            step.done("collections and indexes are up to date")

    def migrate(self, step: Step | None = None) -> None:
        """Make the collections and indexes.

        Raises:
            CommandError: a migration failed.
        """
        # Not as arguments: a connection string can hold a password, and arguments are public.
        database = {"MONGODB_URI": self.mongodb_uri, "MONGODB_DATABASE": self.settings.database}
        command = [sys.executable, "-m", "marketdata.store.migrate"]
        environment = {**os.environ, **database, **self.settings.retention}
        self._run("migrate", command, environment, step)

    def _serve_samples(self, choices: Mapping[str, Choice]) -> None:
        if summary(choices) != "replay":
            self.replay.stop()
            return
        self._launch(self.replay)
        self.replay.wait_until_ready()
        for choice in choices.values():
            if choice.kind != "replay":
                continue
            why = choice.reason or "UPSTREAM=replay is set"
            self.screen.say(
                f"  {masked(choice.instead_of)}: {why}; sample data takes its place, from "
                f"{choice.url}"
            )

    def _deploy(self, built: Path, choices: Mapping[str, Choice]) -> dict[str, str]:
        secret = self.deployment.secret(self.mongodb_uri)
        parameters = self.deployment.parameters(choices, secret)
        contents = self._contents(built)
        shape = self._deployment_key(contents.shape, parameters)
        wanted = {"shape": shape, "code": dict(contents.code)}
        known = self._known()
        present = self.deployment.outputs()
        if present is not None and known == wanted:
            self.screen.say("  the stack is deployed, and nothing has changed")
            return present
        if present is not None and known.get("shape") == shape:
            self._replace_code(contents, known["code"])
            write_atomically(self._deployed, json.dumps(wanted) + "\n")
            return present
        with self.screen.step("deploying the stack (sam deploy)") as step:
            if present is not None:
                self._restart_localstack()
            self.deployment.deploy(built, parameters, self.runner("deploy", step))
            outputs = self.deployment.require_outputs()
            self.deployment.put_secret(outputs["SecretArn"], secret)
            write_atomically(self._deployed, json.dumps(wanted) + "\n")
            step.done(f"stack {self.settings.stack_name} deployed")
        cut_off = end_orphans(
            self.mongodb_uri,
            self.settings.database,
            self.settings.stack_name,
            shared=self.settings.mongodb_uri is not None,
        )
        for run_id in cut_off:
            self.screen.say(
                f"  run {run_id} was interrupted when LocalStack stopped; it is closed, and the"
                " next run goes on with what it left"
            )
        return outputs

    def _contents(self, built: Path) -> Contents:
        """Return what is deployed from a build, in parts."""
        return contents_of(built, self.state / "code")

    def _replace_code(self, contents: Contents, before: Mapping[str, str]) -> None:
        """Give the stack that is up the code that has changed, and leave all else as it is."""
        changed = [name for name, hashed in contents.code.items() if before.get(name) != hashed]
        with self.screen.step("updating the code that has changed") as step:
            self.deployment.update_code({name: contents.archive(name) for name in changed})
            step.done(f"updated the code of {', '.join(changed)}")

    def _restart_localstack(self) -> None:
        """Begin with an empty LocalStack.

        Its CloudFormation does not take every change to a stack that exists, and does not always
        say so. What is in the buckets is put back.
        """
        self.localstack.stop()
        self._deployed.unlink(missing_ok=True)
        if self.localstack.start() and self.localstack not in self._started:
            self._started.append(self.localstack)
        self.localstack.wait_until_ready()

    def _deployment_key(self, shape: str, parameters: Mapping[str, str]) -> str:
        config = ROOT / "samconfig.toml"
        known = [
            shape,
            dict(parameters),
            self.settings.stack_name,
            self.settings.aws_region,
            config.read_text("utf-8") if config.exists() else "",
        ]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def _known(self) -> dict[str, Any]:
        """Return what has been deployed last; empty where that is not known."""
        try:
            content = json.loads(self._deployed.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _describe(
        self, outputs: Mapping[str, str], choices: Mapping[str, Choice]
    ) -> dict[str, Any]:
        missing = {
            "RestApiId",
            "ApiStage",
            "UploadsBucket",
            "StateMachineArn",
            "SecretArn",
        } - outputs.keys()
        if missing:
            raise LocalError(f"template.yaml has no output {', '.join(sorted(missing))}")
        address = self.localstack.address
        return {
            "api_url": f"{address}/_aws/execute-api/{outputs['RestApiId']}/{outputs['ApiStage']}",
            "aws_endpoint_url": address,
            "region": self.settings.aws_region,
            "bucket": outputs["UploadsBucket"],
            "state_machine_arn": outputs["StateMachineArn"],
            "mongodb_uri": self.mongodb_uri,
            "mongodb_database": self.settings.database,
            "refresh_token": self.deployment.refresh_token(),
            "upstream": summary(choices),
            "upstreams": {
                name: {"url": masked(choice.url), "kind": choice.kind}
                for name, choice in choices.items()
            },
            "stack_name": self.settings.stack_name,
            "secret_arn": outputs["SecretArn"],
            "outputs": dict(outputs),
            "logs": str(self.state / "logs"),
        }

    # --- commands in the foreground -----------------------------------------------------------

    def runner(self, name: str, step: Step) -> "_Runner":
        """Return what runs a command for a step, its output in the log of that name."""
        return _Runner(self, name, step)

    def _run(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        step: Step | None = None,
    ) -> None:
        """Run a command of ours to its end, with its output in a log; watch the parts meanwhile.

        Raises:
            CommandError: it failed; with the end of its log.
            PartDiedError: a part of the stack ended meanwhile.
        """
        log = self.state / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        begun = said = time.monotonic()
        with log.open("wb") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=dict(environment),
            )
            try:
                while child.poll() is None:
                    for part in self._needed:
                        part.check()
                    now = time.monotonic()
                    last = tail(log, 1).strip()[:80]
                    if step is not None and self.screen.live:
                        self.screen.update(f"{step.title} … {last}")
                    elif now - said > HEARTBEAT_SECONDS:
                        said = now
                        self.screen.say(f"    {name}: {now - begun:.0f} s, {last}")
                    _wait(child, POLL_SECONDS)
            finally:
                _end_tree(child)
        if child.returncode != 0:
            raise CommandError(
                f"{name} failed (exit status {child.returncode})."
                f" The end of {log}:\n{tail(log, 30)}"
            )

    # --- down ---------------------------------------------------------------------------------

    def down(self, *, nested: bool = False) -> list[str]:
        """End every process of the stack and keep its data. Returns the names of what was ended.

        Args:
            nested: whether also what runs for folders inside the state folder, as tests have them.
        """
        with self.alone(), _uninterrupted():
            return self._down(nested=nested)

    def _down(self, *, nested: bool) -> list[str]:
        # LocalStack first: functions under way still have their database until then.
        services = (self.localstack, self.replay, self.mongod)
        ended = [service.part.name for service in services if service.stop()]
        strays = leftovers(self.state, nested=nested)
        if strays:
            end_all(strays, seconds=10)
            ended.append(f"{len(strays)} process(es) left behind by a crash")
        gone = [process for service in services for process in service.part.ended] + strays
        wait_until_vanished(gone, seconds=5)
        if not self.in_containers:
            self.file.unlink(missing_ok=True)
        self._deployed.unlink(missing_ok=True)
        return ended

    def clean(self) -> list[str]:
        """End the stack and remove its state: data, logs, builds; installed software stays.

        Returns the names of what was removed.
        """
        removed = []
        with self.alone(), _uninterrupted():
            self._down(nested=True)  # stacks of tests too: their state goes with this one's
            for path in sorted(self.state.iterdir()):
                # A description that is still there is that of containers, which go on.
                if path.name in {*KEPT_BY_CLEAN, "lock", self.file.name}:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                removed.append(path.name)
        return removed

    # --- status -------------------------------------------------------------------------------

    def status(self) -> list[PartStatus]:
        """Say of each part how it is."""
        parts = [
            self._status_of(self.localstack, self.localstack.port),
            self._status_of_functions(),
            self._status_of(self.replay, self.replay.port),
        ]
        if self.settings.mongodb_uri is None:
            parts.insert(0, self._status_of(self.mongod, self.mongod.port))
        else:
            parts.insert(0, _status_of_uri(self.settings.mongodb_uri))
        return parts

    def _status_of(self, service: Mongod | LocalStack | Replay, port: int) -> PartStatus:
        part = service.part
        process = part.process()
        if process is None:
            if part.started_once:
                return PartStatus(part.name, "died", port=port, detail=tail(part.log, 5))
            return PartStatus(part.name, "stopped", port=port)
        return PartStatus(
            part.name,
            "healthy" if service.healthy() else "not answering",
            pid=process.pid,
            port=port,
            memory=memory_bytes([process]),
        )

    def _status_of_functions(self) -> PartStatus:
        """Say how many Lambda environments LocalStack keeps, and what they take together."""
        environments = self.localstack.part.descendants()
        return PartStatus(
            "functions",
            f"{len(environments)} processes",
            memory=memory_bytes(environments),
        )

    def check_parts(self) -> None:
        """Raise when a part that was started has ended by itself, or all were ended.

        Raises:
            PartDiedError: names the part, with the end of its log.
            LocalError: the stack is not up.
        """
        if self.description() is None:
            raise LocalError("the stack is not running; start it with `make up` or `make run`")
        for service in (self.mongod, self.localstack, self.replay):
            if service.part.started_once:
                service.part.check()


class _Runner:
    """Runs a command for a step, in the form that ``build`` and ``deploy`` expect."""

    def __init__(self, stack: Stack, name: str, step: Step) -> None:
        self._stack = stack
        self._name = name
        self._step = step

    def __call__(self, command: list[str], environment: dict[str, str]) -> None:
        self._stack._run(self._name, command, environment, self._step)  # noqa: SLF001


def run_in_foreground(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a command that talks to the user itself.

    Raises:
        CommandError: it failed.
    """
    status = subprocess.run(command, cwd=ROOT, env=dict(environment), check=False).returncode
    if status != 0:
        raise CommandError(f"{' '.join(command[2:5])} failed (exit status {status}), see above")


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _wait(child: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)


def _end_tree(child: subprocess.Popen[bytes]) -> None:
    """End a command of ours with all that it has started, if it still runs."""
    if child.poll() is not None:
        return
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(child.pid)
        end_all([process, *process.children(recursive=True)], seconds=5)
    child.wait()


def _client(uri: str) -> pymongo.MongoClient[dict[str, Any]]:
    return pymongo.MongoClient(uri, serverSelectionTimeoutMS=5000, connectTimeoutMS=5000)


def _hosts(uri: str) -> str:
    nodes = parse_uri(uri, validate=False)["nodelist"]
    return ", ".join(f"{host}:{port}" for host, port in nodes)


def _ping(uri: str) -> str:
    """Check that the user's MongoDB answers. Returns its hosts, without user name and password."""
    try:
        with _client(uri) as client:
            hello = client.admin.command("hello")
        hosts = _hosts(uri)
    except PyMongoError as error:
        raise LocalError(f"the MongoDB of MONGODB_URI cannot be used: {error}") from None
    if not hello.get("setName") and hello.get("msg") != "isdbgrid":
        raise LocalError(
            f"the MongoDB of MONGODB_URI ({hosts}) is not a replica set, and the pipeline needs"
            " transactions. Start it with --replSet, or use MongoDB Atlas"
        )
    return hosts


def _status_of_uri(uri: str) -> PartStatus:
    try:
        return PartStatus("mongodb", "healthy", detail=f"MONGODB_URI: {_ping(uri)}")
    except LocalError as error:
        return PartStatus("mongodb", "not answering", detail=str(error))


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore requests to stop while processes are being ended: it takes bounded time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
