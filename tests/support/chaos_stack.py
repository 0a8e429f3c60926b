"""The whole local stack under attack: what breaks it, and how to tell that nothing was lost.

Around the deployed stack stand a mongod of the harness's own, a proxy in front of it, and an
upstream simulator. Functions, mongod and the stack are killed with signal 9, which nothing can
catch.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import psutil

from local.build import ENVS
from local.mongod import Mongod
from local.processes import Part, free_port
from marketdata.store.connection import Store, connect
from tests.support.chaos import UNLIMITED, State, World, crash_mongod, expire, new_world, state_of
from tests.support.documents import Document
from tests.support.events import hourly_event
from tests.support.mongod import state_folder
from tests.support.proxy import Proxy, running_proxy
from tests.support.simulator import FIRST_HOUR, Simulator, running_simulator
from tests.support.stack import StackUnderTest, running_stack
from tests.support.waiting import wait_for

COINGECKO, COINPAPRIKA = "/coingecko", "/coinpaprika"
STEPS = (
    "open_run",
    "extract_coingecko",
    "extract_coinpaprika",
    "extract_csv",
    "normalize_load",
    "close_run",
    "note_failure",
    "opening_failed",
)
ENDED = "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"

SETTINGS = {
    **UNLIMITED,
    "COINGECKO_PAGES": "6",
    "BATCH_ROWS": "200",
    "BATCH_BYTES": "65536",
    "LOAD_CONCURRENCY": "4",
}
COINS = {COINGECKO: 1400, COINPAPRIKA: 1600}
CSV_ROWS = 2_500
LONGEST_LOOK = 0.25  # seconds from a victim's being seen to its end, so that any moment is hit

_LINE = re.compile(r"\[\S+-(?P<function>[a-z_]+) (?P<environment>[0-9a-f]{8})\] (?P<text>.*)")
_START = re.compile(r"START RequestId: (?P<request>\S+)")
_KILLED = re.compile(
    r"RequestId: (?P<request>\S+) Error: Runtime exited with error: signal: killed"
)


def csv_of(number: int, rows: int = CSV_ROWS) -> bytes:
    """The n-th upload: some rows say what earlier ones said, others correct it."""
    lines = ["id,symbol,name,price_usd,volume_24h,market_cap,percent_change_24h,timestamp"]
    for row in range(rows):
        moment = FIRST_HOUR.timestamp() - 3600 * (1 + row % 100)
        price = 1 + row if row % 3 else 1 + row + number
        name = f'"Coin, the {row}th"' if row % 10 == 0 else f"Coin {row}"
        lines.append(f"up-{row},U{row % 300},{name},{price},{row}.5,,{row % 9},{int(moment)}")
    return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True)
class Call:
    """A call of a function: its request and the function's name."""

    request_id: str
    function: str


@dataclass
class Log:
    """The console log of the functions, read as it grows."""

    path: Path
    busy: dict[str, Call] = field(default_factory=dict)
    """What is under way, by execution environment."""
    killed: set[Call] = field(default_factory=set)
    """What ended by a kill."""
    _position: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.path.exists():
            self._position = self.path.stat().st_size

    def read(self) -> dict[str, Call]:
        """Take in what was added since the last time; what is under way now."""
        with self._lock:
            for line in self._added().splitlines():
                if match := _LINE.match(line):
                    self._take(match["function"], match["environment"], match["text"])
            return dict(self.busy)

    def forget(self) -> None:
        """Nothing is under way any more: all environments are gone."""
        self.read()
        self.busy.clear()

    def _added(self) -> str:
        try:
            with self.path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return ""
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        return whole.decode("utf-8", "replace")

    def _take(self, function: str, environment: str, text: str) -> None:
        if match := _START.match(text):
            self.busy[environment] = Call(match["request"], function)
        elif text.startswith("END RequestId"):
            self.busy.pop(environment, None)
        elif match := _KILLED.match(text):
            self.killed.add(Call(match["request"], function))


@dataclass
class Chaos:
    """A stack that is up, and everything around it."""

    stack: StackUnderTest
    upstream: Simulator
    mongod: Mongod
    proxy: Proxy
    store: Store
    """Its database, past the proxy."""
    control: World
    """Asked the same as the stack, and never disturbed."""
    log: Log
    environments: dict[str, psutil.Process] = field(default_factory=dict)
    """The process of each execution environment, as last seen."""
    hour: int = -1
    uploads: int = 0
    sent: set[Call] = field(default_factory=set)
    """Calls that were to be killed; some of these kills come just after the call's end."""
    mongod_kills: int = 0
    stack_kills: int = 0
    runs: int = 0
    expected: State = field(default_factory=dict)

    # --- what goes in ---------------------------------------------------------------------

    def next_hour(self, *, upload: bool = True) -> None:
        """Let the upstream answer with the next hour, and a new CSV come; learn what follows."""
        self.hour += 1
        for route in (COINGECKO, COINPAPRIKA):
            self.upstream.set(route, hour=self.hour, faults=[], often=0, delay=0)
        if upload:
            self.put_csv()
        self.learn()

    def learn(self) -> None:
        """Learn what the state is to be, from the control."""
        self.control.functions.environment = {
            **self.control.functions.environment,
            "AWS_ENDPOINT_URL": str(self.stack.description["aws_endpoint_url"]),
        }
        self.control.run_undisturbed()
        self.expected = state_of(self.control.store)

    def put_csv(self) -> None:
        """Put a further CSV into the bucket; its event starts a run of its own."""
        self.uploads += 1
        self.client("s3").put_object(
            Bucket=self.stack.description["bucket"],
            Key=f"incoming/prices-{self.uploads}.csv",
            Body=csv_of(self.uploads),
        )

    def client(self, service: str) -> Any:
        """A client of the stack's AWS."""
        return boto3.client(service, **self.stack.boto3_options())  # type: ignore[call-overload]

    @staticmethod
    def pause(seconds: float) -> None:
        """Let a fault last for a while: there is no condition to wait for."""
        threading.Event().wait(seconds)

    # --- runs -----------------------------------------------------------------------------

    def start(self) -> str:
        """Start a run by the state machine itself; its id is not known before it is open."""
        self.runs += 1
        return self.start_execution(hourly_event())

    def start_execution(self, envelope: Document, name: str | None = None) -> str:
        """Start an execution; its ARN."""
        answer = self.client("stepfunctions").start_execution(
            stateMachineArn=self.stack.description["state_machine_arn"],
            name=name or f"chaos-{uuid4()}",
            input=json.dumps(envelope),
        )
        return str(answer["executionArn"])

    def status_of(self, execution: str) -> str:
        """The status of an execution."""
        answer = self.client("stepfunctions").describe_execution(executionArn=execution)
        return str(answer["status"])

    def wait_for_end(self, execution: str, *, seconds: float = 300) -> str:
        """Wait until an execution has ended; its status."""

        def ended() -> str | None:
            status = self.status_of(execution)
            return status if status in ENDED else None

        return wait_for(ended, what=f"{execution} ends", seconds=seconds, every=0.3)

    def wait_until_quiet(self, *, seconds: float = 300) -> None:
        """Wait until no execution is under way, nor any call that an execution has left behind."""
        arn = self.stack.description["state_machine_arn"]
        machine = self.client("stepfunctions")

        def quiet() -> bool:
            found = machine.list_executions(stateMachineArn=arn, statusFilter="RUNNING")
            return not found["executions"] and not self.busy_functions()

        wait_for(quiet, what="nothing is under way", seconds=seconds, every=0.3)

    def run(self) -> str:
        """One whole execution; its status. Uploads may be under way beside it."""
        return self.wait_for_end(self.start())

    def recover(self) -> None:
        """What the next hour brings: a run that nothing disturbs.

        Runs whose execution has died without a word are orphans by then.
        """
        self.wait_until_quiet()
        expire(self.store)
        assert self.run() == "SUCCEEDED"
        self.wait_until_quiet()

    # --- kills ----------------------------------------------------------------------------

    @property
    def localstack(self) -> Part:
        """LocalStack's process."""
        return Part("localstack", self.stack.state)

    def busy_functions(self) -> dict[Call, psutil.Process]:
        """The pipeline's calls that are under way, with their processes."""
        busy = {
            environment: call
            for environment, call in self.log.read().items()
            if call.function in STEPS
        }
        if any(not _runs(self.environments.get(environment)) for environment in busy):
            self._find_environments()
        return {
            call: process
            for environment, call in busy.items()
            if (process := self.environments.get(environment)) is not None and _runs(process)
        }

    def _find_environments(self) -> None:
        """Learn which process serves which execution environment; it takes a while."""
        found = {}
        for process in self.localstack.descendants():
            with contextlib.suppress(psutil.Error):
                # The folder for temporary files is named after the environment.
                folder = Path(process.environ().get("TMPDIR", ""))
                found[folder.name[:8]] = process
        self.environments = found

    def at_work(self) -> dict[Call, psutil.Process]:
        """Those that are past their start: their processes have connected to MongoDB."""
        found = {}
        for call, process in self.busy_functions().items():
            with contextlib.suppress(psutil.Error):
                peers = {each.raddr.port for each in process.net_connections("tcp") if each.raddr}
                if self.proxy.port in peers:
                    found[call] = process
        return found

    def kill_function(self, chance: random.Random) -> bool:
        """Kill -9 the process of a call at work, some time after it is seen; False if none is."""
        if not self.at_work():
            return False
        self.pause(chance.uniform(0, LONGEST_LOOK))
        still = self.at_work()
        if not still:
            return False
        # Most calls are a loader's: each kind has the same chance.
        function = chance.choice(sorted({call.function for call in still}))
        call = chance.choice([call for call in still if call.function == function])
        with contextlib.suppress(psutil.NoSuchProcess):
            still[call].kill()
            self.sent.add(call)
        return True

    def killed_at_work(self) -> Counter[str]:
        """How many calls have ended by a kill of these, by function."""
        self.log.read()
        return Counter(call.function for call in self.log.killed & self.sent)

    def kill_mongod(self) -> None:
        """Kill -9 mongod, and start it again."""
        crash_mongod(self.mongod)
        self.mongod_kills += 1

    def kill_stack(self, *, mongod: bool) -> None:
        """Kill -9 LocalStack with all functions, and mongod if told so; bring all up again."""
        main = self.localstack.process()
        assert main is not None
        victims = [main, *self.localstack.descendants()]
        if mongod and (database := self.mongod.part.process()) is not None:
            victims.append(database)
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        self.stack_kills += 1
        wait_for(lambda: self.localstack.process() is None, what="LocalStack is gone")
        if mongod:
            wait_for(lambda: self.mongod.part.process() is None, what="mongod is gone")
            self.mongod.start()
            self.mongod.wait_until_ready()
        self.log.forget()
        self.stack.up()

    # --- other ways to break it -----------------------------------------------------------

    @contextmanager
    def definition(self, change: Callable[[Document], None]) -> Iterator[None]:
        """Run with another definition of the state machine for a while."""
        machine, arn = self.client("stepfunctions"), self.stack.description["state_machine_arn"]
        original = machine.describe_state_machine(stateMachineArn=arn)["definition"]
        changed = json.loads(original)
        change(changed)
        machine.update_state_machine(stateMachineArn=arn, definition=json.dumps(changed))
        try:
            yield
        finally:
            machine.update_state_machine(stateMachineArn=arn, definition=original)

    @contextmanager
    def variables(self, by_function: dict[str, dict[str, str]]) -> Iterator[None]:
        """Give functions further environment variables for a while; they start afresh."""
        client = self.client("lambda")
        before = {}
        for name, more in by_function.items():
            function = f"{self.stack.description['stack_name']}-{name}"
            known = client.get_function_configuration(FunctionName=function)["Environment"]
            before[function] = known["Variables"]
            self._set_variables(client, function, {**known["Variables"], **more})
        try:
            yield
        finally:
            for function, known in before.items():
                self._set_variables(client, function, known)

    @staticmethod
    def _set_variables(client: Any, function: str, variables: dict[str, str]) -> None:
        client.update_function_configuration(
            FunctionName=function, Environment={"Variables": variables}
        )
        client.get_waiter("function_updated_v2").wait(FunctionName=function)

    def invoke(self, name: str, payload: Document) -> None:
        """Call a function beside the state machine, without waiting for its end."""
        self.client("lambda").invoke(
            FunctionName=f"{self.stack.description['stack_name']}-{name}",
            InvocationType="Event",
            Payload=json.dumps(payload),
        )


def _runs(process: psutil.Process | None) -> bool:
    return process is not None and process.is_running()


@contextmanager
def running_chaos(**settings: str) -> Iterator[Chaos]:
    """Bring up everything, and end it in every case."""
    with ExitStack() as cleanup:
        upstream = cleanup.enter_context(running_simulator())
        upstream.set(COINGECKO, kind="coingecko", coins=COINS[COINGECKO])
        upstream.set(COINPAPRIKA, kind="coinpaprika", coins=COINS[COINPAPRIKA])
        mongod = Mongod(
            state_folder() / f"chaos-{uuid4().hex[:8]}", ENVS, free_port(), cache_gb=0.5
        )
        cleanup.callback(mongod.stop)
        mongod.start()
        mongod.wait_until_ready()
        proxy = cleanup.enter_context(running_proxy(mongod.port))
        given = {
            **SETTINGS,
            "COINGECKO_API_URL": upstream.url + COINGECKO,
            "COINPAPRIKA_API_URL": upstream.url + COINPAPRIKA,
            **settings,
        }
        stack = cleanup.enter_context(running_stack(MONGODB_URI=proxy.uri, **given))
        store = connect(mongod.uri, stack.database)
        cleanup.callback(store.client.close)
        environment = {
            "SOURCES": "coingecko,coinpaprika",
            "UPLOADS_BUCKET": str(stack.description["bucket"]),
            "AWS_ENDPOINT_URL": str(stack.description["aws_endpoint_url"]),
            "AWS_DEFAULT_REGION": str(stack.description["region"]),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            **given,
        }
        log = stack.state / "logs" / "control.log"
        control = cleanup.enter_context(new_world(mongod.uri, environment, log, seed=1))
        yield Chaos(
            stack,
            upstream,
            mongod,
            proxy,
            store,
            control,
            Log(stack.state / "logs" / "lambda.log"),
        )
