"""The process executor and the durable S3 in a real LocalStack."""

import asyncio
import base64
import filecmp
import importlib.util
import io
import json
import os
import re
import signal
import socket
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import psutil
import pytest
from botocore.config import Config

from local.executor.src.process_executor.runtime_api import Call, RuntimeApi

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient

ROOT = Path(__file__).parents[2]
FUNCTIONS = Path(__file__).with_name("functions")
ENVIRONMENTS = ROOT / ".local" / "envs"
SOURCE = ROOT / "local" / "executor" / "src" / "process_executor"

ROLE = "arn:aws:iam::000000000000:role/test"
TIMEOUT_SECONDS = 2
MEMORY_MB = 128
KEEPALIVE_MS = 3000
BUCKET = "kept-uploads"
EXCLUDED_BUCKET = "aws-sam-cli-managed-default-test"
KEY = "incoming/a b/prices ä.csv"


def wait_for[T](look: Callable[[], T | None], what: str, seconds: float = 20) -> T:
    """Look until there is something to see."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return seen


@dataclass
class Answer:
    """A call's answer."""

    payload: Any
    error: str | None
    log: str
    seconds: float

    @property
    def report(self) -> str:
        return next(line for line in self.log.splitlines() if line.startswith("REPORT"))


@dataclass
class LocalStack:
    """A LocalStack with its state in a folder of its own."""

    home: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    clients: list[Any] = field(default_factory=list)

    def start(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            self.port = server.getsockname()[1]
        for name in ("tmp", "filesystem"):
            (self.home / name).mkdir(exist_ok=True)
        with (self.home / "localstack.log").open("ab") as log:
            self.process = subprocess.Popen(
                [ENVIRONMENTS / "localstack" / "bin" / "python", "-m", "localstack.runtime.main"],
                env=self._variables(),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, (self.home / "localstack.log").read_text()
            with closing(socket.socket()) as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(ready, "LocalStack's start", 60)

    def _variables(self) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            # plux, LocalStack's finder of plug-ins, caches what it finds in the user's cache.
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "TMPDIR": str(self.home / "tmp"),
            "FILESYSTEM_ROOT": str(self.home / "filesystem"),
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "CUSTOM_SSL_CERT_PATH": str(self.home / "server.pem"),
            "DISABLE_EVENTS": "1",
            "DNS_ADDRESS": "0",
            "LAMBDA_RUNTIME_EXECUTOR": "process",
            "LAMBDA_KEEPALIVE_MS": str(KEEPALIVE_MS),
            "PROCESS_EXECUTOR_PYTHON": str(ENVIRONMENTS / "runtime" / "bin" / "python"),
            "PROCESS_EXECUTOR_DIR": str(self.home / "lambda"),
            "PROCESS_EXECUTOR_LOG": str(self.home / "logs" / "functions.log"),
            "PROVIDER_OVERRIDE_S3": "durable",
            "DURABLE_S3_DIR": str(self.home / "s3"),
            "OF_LOCALSTACK_ALONE": "yes",
        }

    def client(self, service: str) -> Any:
        client = boto3.client(
            service,  # type: ignore[call-overload] # any of them
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=60),
        )
        self.clients.append(client)
        return client

    def children(self) -> list[psutil.Process]:
        """All processes that came from it, and not only as its direct children."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def environments(self) -> list[psutil.Process]:
        """The processes of execution environments."""
        found = []
        for child in self.children():
            try:
                if any(part.endswith("launcher.py") for part in child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def end(self, number: signal.Signals) -> None:
        assert self.process is not None
        for client in self.clients:
            client.close()
        self.clients.clear()
        self.process.send_signal(number)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def function_log(self) -> str:
        return (self.home / "logs" / "functions.log").read_text(encoding="utf-8")


def archive(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for path in sorted((FUNCTIONS / name).rglob("*.py")):
            info = zipfile.ZipInfo(str(path.relative_to(FUNCTIONS / name)))
            packed.writestr(info, path.read_bytes())
    return buffer.getvalue()


def create_function(client: "LambdaClient", name: str, code: str, timeout: int) -> None:
    layers = [
        client.publish_layer_version(LayerName=layer, Content={"ZipFile": archive(layer)})
        for layer in ("layer_first", "layer_second")
    ]
    client.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Handler="app.handler",
        Role=ROLE,
        Code={"ZipFile": archive(code)},
        Layers=[layer["LayerVersionArn"] for layer in layers],
        Timeout=timeout,
        MemorySize=MEMORY_MB,
        Environment={"Variables": {"OWN": "a value"}},
    )
    client.get_waiter("function_active_v2").wait(
        FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )


def invoke(client: "LambdaClient", name: str, do: str, **event: object) -> Answer:
    begun = time.monotonic()
    answer = client.invoke(
        FunctionName=name, Payload=json.dumps({"do": do, **event}), LogType="Tail"
    )
    return Answer(
        payload=json.loads(answer["Payload"].read()),
        error=answer.get("FunctionError"),
        log=base64.b64decode(answer["LogResult"]).decode(),
        seconds=time.monotonic() - begun,
    )


def hang(localstack: LocalStack, name: str, file: Path) -> list[psutil.Process]:
    """Make a function hang, and find its process and that one's child."""
    localstack.client("lambda").invoke(
        FunctionName=name,
        InvocationType="Event",
        Payload=json.dumps({"do": "hang", "file": str(file)}),
    )
    wait_for(file.exists, "the hanging function")
    return [psutil.Process(int(pid)) for pid in file.read_text().split()]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes
    )


def wait_until_gone(processes: list[psutil.Process], what: str) -> None:
    wait_for(lambda: gone(processes), what, 5)


def stored_lines(localstack: LocalStack, function: str, last: str) -> list[str]:
    """A function's lines in CloudWatch Logs, once this one is there."""
    client: CloudWatchLogsClient = localstack.client("logs")

    def stored() -> list[str] | None:
        try:
            events = client.filter_log_events(logGroupName=f"/aws/lambda/{function}")["events"]
        except client.exceptions.ResourceNotFoundException:
            return None
        messages = [event["message"].rstrip("\n") for event in events]
        return messages if last in messages else None

    return wait_for(stored, "the line in CloudWatch Logs")


@dataclass(frozen=True)
class Version:
    """What S3 says of an object version."""

    key: str
    version: str
    latest: bool
    modified: datetime
    etag: str
    content: bytes | None
    content_type: str
    metadata: tuple[tuple[str, str], ...]
    tags: tuple[tuple[str, str], ...]


def versions(client: "S3Client", bucket: str) -> list[Version]:
    listed = client.list_object_versions(Bucket=bucket)
    found = [
        Version(each["Key"], each["VersionId"], each["IsLatest"], each["LastModified"],
                "", None, "", (), ())
        for each in listed.get("DeleteMarkers", [])
    ]  # fmt: skip
    for each in listed.get("Versions", []):
        which = {"Bucket": bucket, "Key": each["Key"], "VersionId": each["VersionId"]}
        got = client.get_object(**which)  # type: ignore[arg-type]
        tags = client.get_object_tagging(**which)["TagSet"]  # type: ignore[arg-type]
        assert got["ETag"] == each["ETag"]
        assert got["ContentLength"] == each["Size"]
        found.append(
            Version(
                key=each["Key"],
                version=each["VersionId"],
                latest=each["IsLatest"],
                modified=each["LastModified"],
                etag=each["ETag"],
                content=got["Body"].read(),
                content_type=got["ContentType"],
                metadata=tuple(sorted(got["Metadata"].items())),
                tags=tuple((tag["Key"], tag["Value"]) for tag in tags),
            )
        )
    return found


def create_buckets(client: "S3Client") -> None:
    for bucket in (BUCKET, EXCLUDED_BUCKET):
        client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})


def fill(client: "S3Client") -> None:
    """All ways by which an object comes and goes."""
    put = client.put_object
    put(Bucket=EXCLUDED_BUCKET, Key="package.zip", Body=b"code")
    put(Bucket=BUCKET, Key=KEY, Body=b"old", ContentType="text/csv", Metadata={"dataset": "x"},
        Tagging="owner=test")  # fmt: skip
    put(Bucket=BUCKET, Key=KEY, Body=b"new" * 500_000)
    put(Bucket=BUCKET, Key="empty", Body=b"")
    put(Bucket=BUCKET, Key="deleted", Body=b"x")
    client.delete_object(Bucket=BUCKET, Key="deleted")
    for key in ("version-deleted", "all-deleted"):
        put(Bucket=BUCKET, Key=key, Body=b"first")
        second = put(Bucket=BUCKET, Key=key, Body=b"second")
        client.delete_object(Bucket=BUCKET, Key=key, VersionId=second["VersionId"])
    first = client.head_object(Bucket=BUCKET, Key="all-deleted")["VersionId"]
    client.delete_objects(
        Bucket=BUCKET, Delete={"Objects": [{"Key": "all-deleted", "VersionId": first}]}
    )
    client.copy_object(
        Bucket=BUCKET, Key="copied", CopySource={"Bucket": BUCKET, "Key": "version-deleted"}
    )
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="parts", ContentType="text/csv")
    which = {"Bucket": BUCKET, "Key": "parts", "UploadId": upload["UploadId"]}
    parts = [
        client.upload_part(**which, PartNumber=number, Body=body)["ETag"]  # type: ignore[arg-type]
        for number, body in ((1, b"1" * 5 * 1024 * 1024), (2, b"2"))
    ]
    client.complete_multipart_upload(
        **which,  # type: ignore[arg-type]
        MultipartUpload={"Parts": [{"PartNumber": n, "ETag": e} for n, e in enumerate(parts, 1)]},
    )
    client.put_object_tagging(
        Bucket=BUCKET, Key="parts", Tagging={"TagSet": [{"Key": "late", "Value": "yes"}]}
    )


@dataclass
class History:
    """A LocalStack that was killed, started, stopped and started again; what was seen of it."""

    localstack: LocalStack
    before: list[Version]
    after_kill: list[Version] = field(default_factory=list)
    before_stop: list[Version] = field(default_factory=list)
    after_stop: list[Version] = field(default_factory=list)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    installed = next(
        (ENVIRONMENTS / "localstack").glob("lib/python*/site-packages/process_executor"), None
    )
    names = [path.name for path in SOURCE.iterdir() if path.is_file()]
    assert installed, "process_executor is not installed in .local/envs/localstack: run `make up`"
    assert filecmp.cmpfiles(SOURCE, installed, names, shallow=False)[0] == names, (
        "the process_executor installed in .local/envs/localstack is not this one: install"
        " local/executor there again"
    )
    localstack = LocalStack(tmp_path_factory.mktemp("local stack"))
    try:
        localstack.start()
        localstack.wait()
        s3: S3Client = localstack.client("s3")
        create_buckets(s3)
        fill(s3)
        seen = History(localstack, before=versions(s3, BUCKET))

        for number in (signal.SIGKILL, signal.SIGTERM):
            create_function(localstack.client("lambda"), "ended", "function", 60)
            # LocalStack starts its log service with the first call, and takes longer to stop while
            # it does.
            warm = invoke(localstack.client("lambda"), "ended", "say", text="x")
            stored_lines(localstack, "ended", warm.report)
            hanging = hang(localstack, "ended", localstack.home / f"hanging-{number.name}")
            children = localstack.children()
            assert {each.pid for each in hanging} <= {each.pid for each in children}
            localstack.end(number)
            wait_until_gone(children, f"the functions' end after {number.name}")
            assert not list((localstack.home / "lambda").glob("run-*"))

            localstack.start()
            localstack.wait()
            s3 = localstack.client("s3")
            create_buckets(s3)
            if number == signal.SIGKILL:
                seen.after_kill = versions(s3, BUCKET)
                s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"newest")
                s3.delete_object(Bucket=BUCKET, Key="copied")
                seen.before_stop = versions(s3, BUCKET)
            else:
                seen.after_stop = versions(s3, BUCKET)
        yield seen
    finally:
        if localstack.process is not None and localstack.process.poll() is None:
            localstack.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def localstack(history: History) -> LocalStack:
    """The LocalStack that is running now, with a function for all tests."""
    create_function(history.localstack.client("lambda"), "test", "function", TIMEOUT_SECONDS)
    return history.localstack


@pytest.fixture(scope="module")
def client(localstack: LocalStack) -> "LambdaClient":
    found: LambdaClient = localstack.client("lambda")
    return found


def test_objects_survive_a_kill(history: History) -> None:
    assert history.after_kill == history.before
    assert {each.key for each in history.before} == {
        KEY, "empty", "deleted", "version-deleted", "copied", "parts",
    }  # fmt: skip
    old = next(each for each in history.before if each.content == b"old")
    assert old.content_type == "text/csv"
    assert old.metadata == (("dataset", "x"),)
    assert old.tags == (("owner", "test"),)
    assert not old.latest


def test_objects_survive_an_orderly_stop(history: History) -> None:
    assert history.after_stop == history.before_stop
    assert len(history.after_stop) == len(history.after_kill) + 2


def test_excluded_buckets_are_not_kept(history: History) -> None:
    client: S3Client = history.localstack.client("s3")
    assert client.list_object_versions(Bucket=EXCLUDED_BUCKET).get("Versions", []) == []
    assert not (history.localstack.home / "s3" / EXCLUDED_BUCKET).exists()


def test_no_file_is_left_over(history: History) -> None:
    kept = [each for each in history.after_stop if each.content is not None]
    assert len(list((history.localstack.home / "s3" / BUCKET / "data").iterdir())) == len(kept)


def test_what_a_function_finds(localstack: LocalStack, client: "LambdaClient") -> None:
    found = invoke(client, "test", "where").payload["result"]
    variables = found["variables"]
    root = variables["LAMBDA_TASK_ROOT"]
    assert found["folder"] == root
    assert found["path"][0] == root
    assert found["greeting"] == found["deep"] == "the second layer's"
    assert found["shadowed"] == "the function's"
    assert found["compiled"]
    assert 0 < found["milliseconds"] <= TIMEOUT_SECONDS * 1000
    assert " " in root
    assert variables["TMPDIR"].startswith(str(localstack.home / "lambda"))
    assert variables["AWS_ENDPOINT_URL"] == f"http://127.0.0.1:{localstack.port}"
    expected = {
        "AWS_LAMBDA_FUNCTION_NAME": "test",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY_MB),
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/test",
        "AWS_LAMBDA_LOG_STREAM_NAME": found["stream"],
        "AWS_REGION": "us-east-1",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "TZ": ":UTC",
        "_HANDLER": "app.handler",
        "OWN": "a value",
    }
    assert {name: variables[name] for name in expected} == expected
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} <= set(variables)
    foreign = {"OF_LOCALSTACK_ALONE", "GATEWAY_LISTEN", "XDG_CACHE_HOME", "LOCALSTACK_RUNTIME_ID"}
    assert not foreign & set(variables)


def test_a_warm_environment_is_used_again(client: "LambdaClient") -> None:
    first = invoke(client, "test", "say", text="one")
    second = invoke(client, "test", "say", text="two")
    assert second.payload["pid"] == first.payload["pid"]
    assert second.payload["calls"] == first.payload["calls"] + 1
    assert "Init Duration" not in second.report
    assert second.seconds < 0.5


def test_concurrent_calls_have_environments_of_their_own(
    client: "LambdaClient", tmp_path: Path
) -> None:
    count = 3

    def call(_number: int) -> Answer:
        return invoke(client, "test", "meet", folder=str(tmp_path), count=count)

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(call, range(count)))
    assert [answer.error for answer in answers] == [None] * count
    assert len({answer.payload["pid"] for answer in answers}) == count


def test_an_error_is_told_as_lambda_does(client: "LambdaClient") -> None:
    answer = invoke(client, "test", "fail", text="wrong")
    assert answer.error == "Unhandled"
    assert answer.payload["errorType"] == "ValueError"
    assert answer.payload["errorMessage"] == "wrong"
    assert "in fail" in "".join(answer.payload["stackTrace"])
    assert "[ERROR] ValueError: wrong" in answer.log


def test_a_time_limit_ends_the_call_and_its_processes(
    localstack: LocalStack, client: "LambdaClient", tmp_path: Path
) -> None:
    file = tmp_path / "hanging"
    before = {each.pid for each in localstack.children()}
    answer = invoke(client, "test", "hang", file=str(file))
    hanging = [int(pid) for pid in file.read_text().split()]
    assert answer.error == "Unhandled"
    assert answer.payload["errorType"] == "Sandbox.Timedout"
    text = f"Task timed out after {TIMEOUT_SECONDS}.00 seconds"
    assert answer.payload["errorMessage"].endswith(f"Error: {text}")
    assert text in answer.log
    assert answer.report.endswith("Status: timeout")
    assert TIMEOUT_SECONDS <= answer.seconds < TIMEOUT_SECONDS + 2
    wait_for(lambda: not any(map(psutil.pid_exists, hanging)), "the end of both", 2)
    after = invoke(client, "test", "say", text="again")
    assert after.error is None
    assert after.payload["calls"] == 1
    assert hanging[0] in before or after.payload["pid"] not in before


def test_an_exit_ends_the_call_at_once(client: "LambdaClient") -> None:
    answer = invoke(client, "test", "leave", code=3)
    assert answer.error == "Unhandled"
    assert answer.payload["errorType"] == "Runtime.ExitError"
    assert answer.payload["errorMessage"].endswith(
        "Error: Runtime exited with error: exit status 3"
    )
    assert answer.seconds < TIMEOUT_SECONDS
    assert invoke(client, "test", "say", text="again").payload["calls"] == 1


def test_a_kill_ends_the_call_at_once(
    localstack: LocalStack, client: "LambdaClient", tmp_path: Path
) -> None:
    file = tmp_path / "hanging"
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(invoke, client, "test", "hang", file=str(file))
        wait_for(file.exists, "the hanging function")
        process, child = (psutil.Process(int(pid)) for pid in file.read_text().split())
        process.kill()
        answer = call.result()
    assert answer.payload["errorType"] == "Runtime.ExitError"
    assert answer.payload["errorMessage"].endswith("signal: killed")
    assert answer.seconds < TIMEOUT_SECONDS
    wait_until_gone([child], "its child's end")
    assert invoke(client, "test", "say", text="again").payload["calls"] == 1


def test_an_environment_that_died_idle_is_replaced(client: "LambdaClient") -> None:
    pid = invoke(client, "test", "say", text="one").payload["pid"]
    process = psutil.Process(pid)
    process.kill()
    wait_for(lambda: gone([process]), "its end")
    answer = invoke(client, "test", "say", text="two")
    assert answer.error is None
    assert answer.payload["pid"] != pid


def test_an_update_lets_a_call_under_way_finish(client: "LambdaClient", tmp_path: Path) -> None:
    create_function(client, "updated", "function", 60)
    begun, end = tmp_path / "begun", tmp_path / "end"
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(invoke, client, "updated", "wait", begun=str(begun), end=str(end))
        wait_for(begun.exists, "the call")
        client.update_function_configuration(
            FunctionName="updated", Environment={"Variables": {"OWN": "another value"}}
        )
        client.get_waiter("function_updated_v2").wait(
            FunctionName="updated", WaiterConfig={"Delay": 1}
        )
        answer = invoke(client, "updated", "where")
        assert answer.payload["result"]["variables"]["OWN"] == "another value"
        assert not call.done()
        end.touch()
        assert call.result().error is None
    pid = call.result().payload["pid"]
    wait_for(lambda: not psutil.pid_exists(pid), "the end of the old version's environment", 5)


def test_a_large_answer_is_an_error(client: "LambdaClient") -> None:
    assert invoke(client, "test", "large", bytes=6_000_000).error is None
    answer = invoke(client, "test", "large", bytes=6_300_000)
    assert answer.error == "Unhandled"
    assert answer.payload["errorType"] == "Function.ResponseSizeTooLarge"


def test_a_failed_start_is_told_as_lambda_does(
    localstack: LocalStack, client: "LambdaClient"
) -> None:
    create_function(client, "broken", "broken", TIMEOUT_SECONDS)
    for _ in range(2):  # each call tries again
        answer = invoke(client, "broken", "say")
        assert answer.error == "Unhandled"
        assert answer.payload["errorType"] == "RuntimeError"
        assert answer.payload["errorMessage"] == "no settings"
        assert "before the failure" in answer.log
        assert answer.seconds < TIMEOUT_SECONDS
    assert localstack.function_log().count("before the failure") == 2


def test_a_kill_at_the_start_is_told_once(client: "LambdaClient") -> None:
    create_function(client, "killed", "killed", TIMEOUT_SECONDS)
    for _ in range(2):  # the second time, the start is a part of the call
        answer = invoke(client, "killed", "say")
        assert answer.payload["errorType"] == "Runtime.ExitError"
        assert answer.log.count("signal: killed") == 1


def test_the_report_tells_time_and_memory(client: "LambdaClient") -> None:
    cold = invoke(client, "test", "leave", code=0)  # the next one is cold
    assert cold.error == "Unhandled"
    small = invoke(client, "test", "say", text="x").report
    large = invoke(client, "test", "allocate", megabytes=64).report
    pattern = re.compile(
        r"REPORT RequestId: (?P<id>[-0-9a-f]{36})\tDuration: (?P<duration>[\d.]+) ms"
        r"\tBilled Duration: (?P<billed>\d+) ms\tMemory Size: (?P<size>\d+) MB"
        r"\tMax Memory Used: (?P<used>\d+) MB"
    )
    found = [pattern.match(report) for report in (small, large)]
    used = []
    for match in found:
        assert match is not None
        assert int(match["size"]) == MEMORY_MB
        assert float(match["duration"]) <= int(match["billed"])
        used.append(int(match["used"]))
    assert 5 < used[0] < MEMORY_MB
    assert used[1] >= used[0] + 60


def test_a_new_environment_reports_its_start(client: "LambdaClient") -> None:
    create_function(client, "cold", "function", TIMEOUT_SECONDS)
    answer = invoke(client, "cold", "say", text="x")
    assert re.search(r"\tInit Duration: \d+\.\d\d ms$", answer.report)


def test_lines_go_to_cloudwatch_and_to_the_file(
    localstack: LocalStack, client: "LambdaClient"
) -> None:
    answer = invoke(client, "test", "say", text="one\ntwo")
    request = answer.report.split()[2]
    lines = answer.log.splitlines()[answer.log.splitlines().index("one") - 1 :]
    assert lines[0] == f"START RequestId: {request} Version: $LATEST"
    assert lines[1:4] == ["one", "two", "to standard error"]
    assert lines[4].startswith("[WARNING]")
    assert lines[4].endswith("by a logger")
    assert lines[5] == f"END RequestId: {request}"
    assert lines[6] == answer.report

    messages = stored_lines(localstack, "test", answer.report)
    begin = messages.index(lines[0])
    assert messages[begin : begin + len(lines)] == lines

    prefixes = {
        line.removesuffix(end)
        for line in localstack.function_log().splitlines()
        for end in (lines[0], answer.report)
        if line.endswith(end)
    }
    assert len(prefixes) == 1
    assert re.fullmatch(r"\[test [0-9a-f]{8}\] ", prefixes.pop())


def test_step_functions_see_errors_by_name(localstack: LocalStack) -> None:
    client: SFNClient = localstack.client("stepfunctions")
    states = {
        "StartAt": "Call",
        "States": {
            "Call": {
                "Type": "Task",
                "Resource": "arn:aws:states:::lambda:invoke",
                "Parameters": {"FunctionName": "test", "Payload.$": "$"},
                "Catch": [{"ErrorEquals": ["ValueError"], "Next": "Caught"}],
                "End": True,
            },
            "Caught": {"Type": "Pass", "End": True},
        },
    }
    machine = client.create_state_machine(
        name="errors", definition=json.dumps(states), roleArn=ROLE
    )
    execution = client.start_execution(
        stateMachineArn=machine["stateMachineArn"],
        input=json.dumps({"do": "fail", "text": "wrong"}),
    )

    def ended() -> Any:
        seen = client.describe_execution(executionArn=execution["executionArn"])
        return seen if seen["status"] != "RUNNING" else None

    seen = wait_for(ended, "the execution's end")
    assert seen["status"] == "SUCCEEDED"
    caught = json.loads(seen["output"])
    assert caught["Error"] == "ValueError"
    assert json.loads(caught["Cause"])["errorMessage"] == "wrong"


def test_the_client_where_there_is_no_compiled_one() -> None:
    """awslambdaric brings none for macOS; the fallback speaks to the same server."""
    spec = importlib.util.spec_from_file_location(
        "runtime_client_fallback", SOURCE / "runtime_client_fallback.py"
    )
    assert spec is not None
    assert spec.loader is not None
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    answers: list[tuple[str, bytes, bool]] = []

    class OneCall:
        async def next_call(self) -> Call:
            return Call("id-1", b'{"a": 1}', 12345, "arn:function", "Root=1")

        def answer(self, request_id: str, body: bytes, *, failed: bool) -> bool:
            answers.append((request_id, body, failed))
            return request_id == "id-1"

        def start_failed(self, body: bytes) -> None:
            raise AssertionError(body)

    def run() -> None:
        client.initialize_client("test")
        payload, headers = client.next()
        assert payload == b'{"a": 1}'
        assert headers["Lambda-Runtime-Aws-Request-Id"] == "id-1"
        assert headers["Lambda-Runtime-Deadline-Ms"] == "12345"
        assert headers["Lambda-Runtime-Client-Context"] is None
        client.post_invocation_result("id-1", b"{}", "application/json", None)
        client.post_error("id-1", '{"errorType": "E"}', "{}", None)
        with pytest.raises(RuntimeError, match="id-2"):
            client.post_invocation_result("id-2", b"{}", "application/json")
        client._connection.close()

    async def serve() -> None:
        api = RuntimeApi(OneCall())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_LAMBDA_RUNTIME_API", await api.open())
            await asyncio.to_thread(run)
        api.close()

    asyncio.run(serve())
    assert answers == [
        ("id-1", b"{}", False),
        ("id-1", b'{"errorType": "E"}', True),
        ("id-2", b"{}", False),
    ]


def test_idle_environments_end(localstack: LocalStack, client: "LambdaClient") -> None:
    invoke(client, "test", "say", text="x")
    assert localstack.environments()
    wait_for(lambda: not localstack.environments(), "the end of idle environments")
    assert invoke(client, "test", "say", text="x").error is None
