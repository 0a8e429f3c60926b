"""Functions under ``sam local``, with the stack in containers as the rest of the world.

The template is the built one with two changes: a function's code is its folder in the clone, so
that an edited handler is there at once, and the layers are copies in one place, which follow the
library's sources. What the functions find in their environment is what the deployed ones find, with
what ``.env`` says now on top.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from local.aws import client_options
from local.background import beside
from local.build import architecture, build, sam, tool_environment
from local.compose import Compose, require_docker, require_stack
from local.console import Screen
from local.deploy import CREDENTIALS, quoted
from local.errors import CommandError, LocalError
from local.events import Event, completed, is_envelope, read_event
from local.processes import require_free_port, write_atomically
from local.settings import ROOT, Settings
from local.stack import Stack
from local.vendoring import FUNCTION, LAYER, of_type, read_built_template

LIBRARY = ROOT / "layers" / "marketdata" / "src" / "marketdata"
LIBRARY_LAYER = "MarketdataLayer"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LOOK_SECONDS = 0.5
STOP_SECONDS = 30

_PREFIX = "${AWS::StackName}-"

type Invoke = Callable[[str, Event], Any]
"""Invokes a function, by the name of its folder, with an event."""


@dataclass(frozen=True)
class SamLocal:
    """What ``sam local`` is called with.

    Attributes:
        folder: of the template, the layers and the environment variables.
        options: of all its commands.
        functions: logical ids by the names of the folders in ``functions/``.
        stack: what ``stack.json`` says.
    """

    folder: Path
    options: list[str]
    functions: Mapping[str, str]
    stack: Mapping[str, Any]

    @property
    def library(self) -> Path:
        """The copy of the library that the functions use."""
        return self.folder / LIBRARY_LAYER / "python" / LIBRARY.name


def prepare(settings: Settings, screen: Screen, purpose: str) -> SamLocal:
    """Build what ``sam local`` needs.

    Args:
        settings: of the stack in containers.
        screen: to tell about it on.
        purpose: name of the folder for it; a server that runs watches its own.

    Raises:
        LocalError: Docker or the stack in containers is missing, or the build failed.
    """
    require_docker()
    stack = require_stack(settings, screen)
    with screen.step("building the template (sam build)") as step:
        built, anew = build(Stack(settings, screen).runner("build", step))
        step.done("built the template" if anew else "the template has not changed")
    folder = settings.local_state_dir / "sam-local" / purpose
    shutil.rmtree(folder, ignore_errors=True)
    template = read_built_template(built)
    for name in of_type(template, LAYER):
        # Links are quick to make, but what is edited must not be a part of the build.
        copy = shutil.copy2 if name == LIBRARY_LAYER else os.link
        shutil.copytree(built / name, folder / name, copy_function=copy)
        template["Resources"][name]["Properties"]["ContentUri"] = str(folder / name)
    # The layer's bytecode is never compared with the sources, which are to be edited.
    for bytecode in (folder / LIBRARY_LAYER).rglob("__pycache__"):
        shutil.rmtree(bytecode)
    functions = {}
    variables = {}
    for logical_id, resource in of_type(template, FUNCTION).items():
        properties = resource["Properties"]
        name = properties["FunctionName"]["Fn::Sub"].removeprefix(_PREFIX)
        functions[name] = logical_id
        properties["CodeUri"] = str(ROOT / "functions" / name)
        variables[logical_id] = _variables(settings, stack, f"{stack['stack_name']}-{name}")
        # SAM passes only what the template declares.
        properties.setdefault("Environment", {})["Variables"] = dict.fromkeys(
            variables[logical_id], ""
        )
    spell_out_any(of_type(template, FUNCTION))
    (folder / "template.yaml").write_text(yaml.safe_dump(template, sort_keys=False), "utf-8")
    write_atomically(folder / "env.json", json.dumps(variables, indent=2) + "\n", mode=0o600)
    options = [
        "--template-file",
        str(folder / "template.yaml"),
        "--env-vars",
        str(folder / "env.json"),
        "--docker-network",
        Compose(settings).network(),
        # A name for this machine where Docker has none by itself.
        "--add-host",
        "host.docker.internal:host-gateway",
        "--parameter-overrides",
        *(f"{name}={quoted(one)}" for name, one in _parameters(settings).items()),
    ]
    if _is_present(f"public.ecr.aws/lambda/python:3.13-{architecture()}"):
        options.append("--skip-pull-image")
    return SamLocal(folder, options, functions, stack)


def spell_out_any(functions: Mapping[str, Any]) -> None:
    """Write a route of all methods as one route for each that no other function has.

    In API Gateway the route of one method goes before that of all; SAM takes whichever comes first.
    """
    routes = {
        (name, event): one["Properties"]
        for name, resource in functions.items()
        for event, one in resource["Properties"].get("Events", {}).items()
        if one["Type"] == "Api"
    }
    taken = {(route["Path"], route["Method"].upper()) for route in routes.values()}
    for (name, event), route in routes.items():
        if route["Method"].upper() == "ANY":
            events = functions[name]["Properties"]["Events"]
            del events[event]
            for method in METHODS:
                if (route["Path"], method) not in taken:
                    events[f"{event}{method.title()}"] = {
                        "Type": "Api",
                        "Properties": {**route, "Method": method},
                    }


def _variables(settings: Settings, stack: Mapping[str, Any], function: str) -> dict[str, str]:
    """Return a function's environment as it is deployed, with what is set now on top."""
    client = boto3.client("lambda", **client_options(stack))
    try:
        answer = client.get_function_configuration(FunctionName=function)
    except (ClientError, BotoCoreError) as error:
        raise LocalError(
            f"the function {function} is not in LocalStack ({error});"
            " deploy it with `make compose-up`"
        ) from error
    finally:
        client.close()
    deployed = answer["Environment"]["Variables"]
    named = {settings.parameters[name].variable: one for name, one in settings.overrides.items()}
    port = str(stack["aws_endpoint_url"]).rpartition(":")[2]
    return {
        **deployed,
        **{name: one for name, one in named.items() if name in deployed},
        **({"MONGODB_URI": settings.mongodb_uri} if settings.mongodb_uri else {}),
        "AWS_ENDPOINT_URL": f"http://localstack:{port}",
    }


def _parameters(settings: Settings) -> dict[str, str]:
    return {**settings.overrides, "Environment": "local", "Architecture": architecture()}


def _is_present(image: str) -> bool:
    command = ["docker", "image", "inspect", image]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _environment(prepared: SamLocal) -> dict[str, str]:
    # SAM gives functions what it finds in its own environment for a variable of theirs.
    plain = {
        name: one
        for name, one in tool_environment(architecture()).items()
        if not name.startswith(("AWS_", "POWERTOOLS_", "MONGODB_"))
    }
    return {
        **plain,
        **CREDENTIALS,
        "AWS_DEFAULT_REGION": str(prepared.stack["region"]),
        # Whose account this is, it would ask AWS itself.
        "AWS_ENDPOINT_URL": str(prepared.stack["aws_endpoint_url"]),
    }


# --- the API ------------------------------------------------------------------------------------


def sam_api(settings: Settings, screen: Screen) -> None:
    """Serve the API by ``sam local start-api`` until interrupted.

    Raises:
        LocalError: it could not be started.
    """
    require_free_port(settings.sam_port, part="sam local", setting="SAM_PORT")
    prepared = prepare(settings, screen, "api")
    screen.say(f"  API        http://127.0.0.1:{settings.sam_port} (Ctrl-C stops it)")
    command = [
        *sam(),
        "local",
        "start-api",
        *prepared.options,
        "--host",
        "127.0.0.1",
        "--port",
        str(settings.sam_port),
        "--warm-containers",
        "LAZY",
    ]
    # In a session of its own: it ends its containers at one signal, and two are one too many.
    process = subprocess.Popen(
        command, cwd=ROOT, env=_environment(prepared), start_new_session=True
    )
    try:
        with following(LIBRARY, prepared.library):
            status = process.wait()
    except BaseException:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        raise
    raise CommandError(f"sam local start-api ended (exit status {status}), see above")


@contextmanager
def following(source: Path, copy: Path) -> Iterator[None]:
    """Keep a copy of a folder up to date meanwhile."""
    at_first = _state(source)

    def follow(ended: threading.Event) -> None:
        before = at_first
        while not ended.wait(LOOK_SECONDS):
            now = _state(source)
            for name in now.keys() - {one for one, seen in before.items() if now.get(one) == seen}:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, copy / name)
            for name in before.keys() - now.keys():
                (copy / name).unlink(missing_ok=True)
            before = now

    with beside(follow):
        yield


def _state(folder: Path) -> dict[Path, tuple[int, int]]:
    found = {}
    for path in folder.rglob("*"):
        if "__pycache__" not in path.parts and path.is_file():
            status = path.stat()
            found[path.relative_to(folder)] = (status.st_mtime_ns, status.st_size)
    return found


# --- one function -------------------------------------------------------------------------------


def sam_invoke(settings: Settings, screen: Screen, function: str, file: str) -> None:
    """Invoke a function by ``sam local invoke`` and print what it returns.

    With an event that starts a run, a function behind ``open_run`` is given what the state machine
    would give it: the functions before it are invoked first, and ``close_run`` at the end.

    Raises:
        LocalError: there is no such function or event, or the function failed.
    """
    sample = read_event(Path(file))
    known = sorted(path.parent.name for path in (ROOT / "functions").glob("*/app.py"))
    if function not in known:
        raise LocalError(f"there is no function '{function}'; FN is one of {', '.join(known)}")
    prepared = prepare(settings, screen, "invoke")

    def invoke(name: str, payload: Event) -> Any:
        screen.say(f"  invoking {name}")
        return _invoke(prepared, name, payload)

    event = completed(sample, prepared.stack)
    if is_envelope(event):
        result = invoke_as_the_state_machine(function, event, invoke)
    else:
        result = invoke(function, event)
    print(json.dumps(result, indent=2))


def _invoke(prepared: SamLocal, function: str, payload: Event) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(payload, file)
        file.flush()
        command = [
            *sam(),
            "local",
            "invoke",
            prepared.functions[function],
            *prepared.options,
            "--event",
            file.name,
        ]
        # The functions' log goes to the terminal, the result comes back.
        finished = subprocess.run(
            command,
            cwd=ROOT,
            env=_environment(prepared),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    lines = finished.stdout.strip().splitlines()
    if finished.returncode != 0 or not lines:
        raise CommandError(
            f"sam local invoke failed (exit status {finished.returncode}), see above"
        )
    try:
        result = json.loads(lines[-1])
    except ValueError:
        raise CommandError(f"{function} did not return JSON: {finished.stdout[-500:]}") from None
    if isinstance(result, dict) and "errorType" in result:
        raise CommandError(f"{function} failed: {result['errorType']}: {result['errorMessage']}")
    return result


def invoke_as_the_state_machine(function: str, event: Event, invoke: Invoke) -> Any:
    """Invoke a function of the pipeline, and before it those that make its input.

    Args:
        function: the one whose result is wanted.
        event: of EventBridge.
        invoke: invokes a function.

    Raises:
        LocalError: the event gives the function nothing to do.
    """
    opened = invoke("open_run", {"event": event, "execution": f"sam-local-{event['id']}"})
    if not opened["proceed"]:
        raise LocalError(f"the event starts nothing: run {opened['run_id']} already has its inputs")
    result = opened
    closed: Any = None
    try:
        if function != "open_run":
            for name, found in _steps(function, opened["inputs"], invoke):
                if name == function:
                    result = found
    finally:
        # An open run would keep what it holds from all others.
        results = [{"input": item["input"]} for item in opened["inputs"]]
        closed = invoke("close_run", {"run_id": opened["run_id"], "results": results})
    return closed if function == "close_run" else result


def _steps(function: str, inputs: list[Event], invoke: Invoke) -> Iterator[tuple[str, Any]]:
    """Invoke the steps up to a function for the inputs that reach it, with their results."""
    wanted = [one for one in inputs if function in {f"extract_{one['source']}", *_FOR_ALL}]
    if not wanted:
        sources = ", ".join(one["source"] for one in inputs) or "none"
        raise LocalError(f"the event gives {function} nothing to do; its run takes: {sources}")
    for item in wanted:
        again = True
        while again:
            extracted = invoke(f"extract_{item['source']}", item)
            yield f"extract_{item['source']}", extracted
            again = extracted["state"] in ("again", "unfinished") and function in _FOR_ALL
            if function in _FOR_ALL:
                for number in extracted["numbers"]:
                    payload = {"run_id": item["run_id"], "input": item["input"], "number": number}
                    loaded = invoke("normalize_load", payload)
                    while loaded["again"]:
                        loaded = invoke("normalize_load", payload)
                    yield "normalize_load", loaded


_FOR_ALL = ("normalize_load", "close_run")
