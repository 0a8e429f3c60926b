"""template.yaml: what CloudFormation gets to see of it, and which settings it passes on."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

import marketdata
from local.build import ENVS
from local.parameters import read_parameters, variable_of
from local.settings import ROOT, setting_names
from marketdata.settings import Settings

TRANSLATE = """
import json, sys
from samcli.lib.translate.sam_template_validator import SamTemplateValidator
from samcli.yamlhelper import yaml_parse

class NoPolicies:
    def load(self):
        return {}

with open("template.yaml") as file:
    template = yaml_parse(file.read())
translated = SamTemplateValidator(template, NoPolicies()).get_translated_template_if_valid()
json.dump(yaml_parse(translated), sys.stdout)
"""

type Resources = dict[str, dict[str, Any]]

DOCUMENTS = [ROOT / "README.md", ROOT / ".env.example", *sorted(ROOT.glob("docs/**/*.md"))]

OF_OTHER_TOOLS = {
    "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"
}  # fmt: skip
OF_THE_TOOLS_HERE = {"ENV_FILE", "LAMBDA_ARCHITECTURE"}


@pytest.fixture(scope="module")
def resources() -> Resources:
    """The template as SAM hands it to CloudFormation."""
    environment = {**os.environ, "AWS_DEFAULT_REGION": "us-east-1", "SAM_CLI_TELEMETRY": "0"}
    result = subprocess.run(
        [str(ENVS / "sam" / "bin" / "python"), "-c", TRANSLATE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    translated: Resources = json.loads(result.stdout)["Resources"]
    return translated


def of_type(resources: Resources, kind: str) -> Resources:
    return {
        name: one["Properties"] for name, one in resources.items() if one["Type"] == f"AWS::{kind}"
    }


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def rights(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Every action on every resource that a policy allows."""
    return {
        (action, json.dumps(resource, sort_keys=True))
        for statement in document["Statement"]
        if statement["Effect"] == "Allow"
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    }


def inline(role: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        right for policy in role.get("Policies", ()) for right in rights(policy["PolicyDocument"])
    }


class StrictLoader(yaml.SafeLoader):
    """Refuses what CloudFormation refuses, and YAML readers pass over: a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice in {keys}"
        return super().construct_mapping(node, deep=deep)


StrictLoader.add_multi_constructor("!", lambda _loader, _tag, node: node.value)


def test_no_key_is_given_twice() -> None:
    text = (ROOT / "template.yaml").read_text("utf-8")
    template = yaml.load(text, StrictLoader)  # noqa: S506 - a safe loader
    assert "MaxWaitMinutes" in template["Parameters"]
    with pytest.raises(AssertionError, match="twice"):
        yaml.load("a: 1\nb: 2\na: 3\n", StrictLoader)  # noqa: S506


# --- what CloudFormation gets ---------------------------------------------------------------------


def test_the_one_stage_is_throttled(resources: Resources) -> None:
    (stage,) = of_type(resources, "ApiGateway::Stage").values()
    assert stage["StageName"] == {"Ref": "Environment"}
    (settings,) = stage["MethodSettings"]
    assert (settings["ResourcePath"], settings["HttpMethod"]) == ("/*", "*")
    assert settings["ThrottlingRateLimit"] == {"Ref": "ApiRateLimit"}
    assert settings["ThrottlingBurstLimit"] == {"Ref": "ApiBurstLimit"}
    # A deployment that names a stage makes one of its own.
    for deployment in of_type(resources, "ApiGateway::Deployment").values():
        assert "StageName" not in deployment


def test_the_gateway_answers_errors_in_the_form_of_the_api(resources: Resources) -> None:
    (api,) = of_type(resources, "ApiGateway::RestApi").values()
    answers = api["Body"]["x-amazon-apigateway-gateway-responses"]
    assert set(answers) == {"DEFAULT_4XX", "DEFAULT_5XX"}
    for answer in answers.values():
        text = answer["responseTemplates"]["application/json"]
        # The one that the gateway puts in with quotes and escapes.
        text = text.replace("$context.error.messageString", '"Too Many Requests"')
        assert json.loads(text) == {
            "error": {
                "code": "$context.error.responseType",
                "message": "Too Many Requests",
                "details": {},
            },
            "request_id": "$context.requestId",
        }


def test_every_function_writes_to_a_log_group_of_its_own(resources: Resources) -> None:
    groups = of_type(resources, "Logs::LogGroup")
    functions = of_type(resources, "Lambda::Function")
    used = [function["LoggingConfig"]["LogGroup"]["Ref"] for function in functions.values()]
    assert sorted(used) == sorted(groups)
    for group in groups.values():
        assert group["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    names = {
        groups[function["LoggingConfig"]["LogGroup"]["Ref"]]["LogGroupName"]["Fn::Sub"]: function
        for function in functions.values()
    }
    for name, function in names.items():
        assert name == "/aws/lambda/" + function["FunctionName"]["Fn::Sub"]


def test_no_role_may_do_everything_or_do_it_anywhere(resources: Resources) -> None:
    policies = of_type(resources, "IAM::ManagedPolicy").values()
    allowed = set().union(*(rights(one["PolicyDocument"]) for one in policies))
    allowed |= set().union(*(inline(role) for role in of_type(resources, "IAM::Role").values()))
    assert not [right for right in allowed if "*" in right[0] or right[1] == '"*"']
    # What names more than one thing: objects, executions, the functions' log groups.
    several = {right for right in allowed if "*" in right[1]}
    assert {action for action, _ in several} == {
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "s3:GetObject",
        "s3:GetObjectVersion",
        "s3:PutObject",
        "states:DescribeExecution",
        "states:StopExecution",
    }
    assert all("/incoming/*" in on for action, on in several if action.startswith("s3:"))


def test_functions_have_a_boundary_that_holds_what_they_are_given(resources: Resources) -> None:
    boundary = rights(resources["FunctionBoundary"]["Properties"]["PolicyDocument"])
    roles = of_type(resources, "IAM::Role")
    given: set[tuple[str, str]] = set()
    for function in of_type(resources, "Lambda::Function").values():
        role = roles[function["Role"]["Fn::GetAtt"][0]]
        assert role["PermissionsBoundary"] == {"Ref": "FunctionBoundary"}
        assert len(role["ManagedPolicyArns"]) == 1  # that for logs
        given |= inline(role)
    # LocalStack does not look at permissions: what is missing here would fail on AWS only.
    assert given - boundary == set()
    assert {action for action, _ in boundary - given} == {
        "logs:CreateLogStream",
        "logs:PutLogEvents",
    }


def test_what_a_rule_can_not_deliver_is_kept_and_alerts(resources: Resources) -> None:
    rules = of_type(resources, "Events::Rule")
    queue = {"Fn::GetAtt": ["DeadLetters", "Arn"]}
    for rule in rules.values():
        (target,) = rule["Targets"]
        assert target["DeadLetterConfig"] == {"Arn": queue}
    (policy,) = of_type(resources, "SQS::QueuePolicy").values()
    (statement,) = policy["PolicyDocument"]["Statement"]
    allowed = statement["Condition"]["ArnEquals"]["aws:SourceArn"]
    names = sorted(rule["Name"]["Fn::Sub"] for rule in rules.values())
    assert sorted(arn["Fn::Sub"].rpartition("rule/")[2] for arn in allowed) == names
    (alarm,) = of_type(resources, "CloudWatch::Alarm").values()
    assert alarm["Dimensions"][0]["Value"] == {"Fn::GetAtt": ["DeadLetters", "QueueName"]}
    assert alarm["AlarmActions"] == [{"Ref": "AlertTopic"}]
    function = of_type(resources, "Lambda::Function")["ExecutionEndedFunction"]
    assert function["DeadLetterConfig"] == {"TargetArn": queue}


def test_an_execution_that_ends_badly_is_told_of(resources: Resources) -> None:
    (rule,) = (
        one
        for one in of_type(resources, "Events::Rule").values()
        if one.get("EventPattern", {}).get("source") == ["aws.states"]
    )
    assert rule["EventPattern"]["detail"] == {
        # Exactly: the items of a distributed map have another one, with a label.
        "stateMachineArn": [{"Ref": "IngestStateMachine"}],
        "status": ["FAILED", "TIMED_OUT", "ABORTED"],
    }
    (target,) = rule["Targets"]
    assert target["Arn"] == {"Fn::GetAtt": ["ExecutionEndedFunction", "Arn"]}


def test_alerts_are_mailed_if_there_is_an_address(resources: Resources) -> None:
    subscription = resources["AlertSubscription"]
    assert subscription["Condition"] == "AlertsByEmail"
    assert subscription["Properties"]["Endpoint"] == {"Ref": "AlertEmail"}
    for name in ("CloseRunFunction", "OpeningFailedFunction", "ExecutionEndedFunction"):
        variables = of_type(resources, "Lambda::Function")[name]["Environment"]["Variables"]
        assert variables["ALERT_TOPIC_ARN"] == {"Ref": "AlertTopic"}


# --- the state machine ----------------------------------------------------------------------------

FUNCTION_OF = {
    "OpenRun": "OpenRunFunction",
    "CloseUnopened": "OpeningFailedFunction",
    "ExtractionFailed": "NoteFailureFunction",
    "InputFailed": "NoteFailureFunction",
    "CloseRun": "CloseRunFunction",
    "NormalizeLoad": "NormalizeLoadFunction",
}


def states(machine: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All states of a state machine, those of its maps included."""
    found = dict(machine["States"])
    for state in machine["States"].values():
        if state["Type"] == "Map":
            found |= states(state["ItemProcessor"])
    return found


@pytest.fixture(scope="module")
def machine() -> dict[str, Any]:
    text = (ROOT / "statemachines" / "ingest.asl.json").read_text("utf-8")
    read: dict[str, Any] = json.loads(text.replace("${LoadConcurrency}", "8"))
    return read


def test_every_step_gives_up_after_its_function_would_have(
    machine: dict[str, Any], resources: Resources
) -> None:
    functions = of_type(resources, "Lambda::Function")
    tasks = {name: one for name, one in states(machine).items() if one["Type"] == "Task"}
    assert tasks.keys() == FUNCTION_OF.keys() | {"Extract"}
    longest = max(
        function["Timeout"] for name, function in functions.items() if name.startswith("Extract")
    )
    for name, one in tasks.items():
        timeout = functions[FUNCTION_OF[name]]["Timeout"] if name in FUNCTION_OF else longest
        assert timeout < one["TimeoutSeconds"] <= timeout + 30
        (retry,) = one["Retry"]
        assert {
            "TransientError",
            "States.Timeout",
            "Lambda.ClientExecutionTimeoutException",
        } <= set(retry["ErrorEquals"])
    assert machine["TimeoutSeconds"] == 24 * 3600


def test_retries_of_many_steps_never_come_in_step(machine: dict[str, Any]) -> None:
    """What failed for all of them at once is not met by all of them at once again."""
    retried = {name: one["Retry"] for name, one in states(machine).items() if "Retry" in one}
    assert retried.keys() == FUNCTION_OF.keys() | {"Extract"}
    for name, retries in retried.items():
        for retry in retries:
            assert retry["JitterStrategy"] == "FULL", name
            assert retry["BackoffRate"] > 1, name
            assert 1 <= retry["IntervalSeconds"] < retry["MaxDelaySeconds"] <= 60, name
            assert 2 <= retry["MaxAttempts"] <= 6, name


def test_whatever_fails_the_run_is_closed(machine: dict[str, Any]) -> None:
    outer = machine["States"]
    (caught,) = outer["OpenRun"]["Catch"]
    assert (caught["ErrorEquals"], caught["Next"]) == (["States.ALL"], "CloseUnopened")
    (caught,) = outer["Inputs"]["Catch"]
    assert outer[caught["Next"]]["Next"] == "CloseRun"
    inner = outer["Inputs"]["ItemProcessor"]["States"]
    for name, noted in (("Extract", "ExtractionFailed"), ("Batches", "InputFailed")):
        (caught,) = inner[name]["Catch"]
        assert (caught["ErrorEquals"], caught["Next"]) == (["States.ALL"], noted)
        assert inner[noted]["Parameters"]["Payload"]["caught.$"] == "$.caught"
        (caught,) = inner[noted]["Catch"]
        assert (caught["ErrorEquals"], caught["Next"]) == (["States.ALL"], "InputGivenUp")
    # Which comes but once: the batches that are loaded then have the other way out.
    assert inner["ExtractionFailed"]["Next"] == "Batches"
    # A cause has up to 32 KB, and the results of all inputs together have to stay under 256.
    given_up = inner["InputGivenUp"]
    assert given_up["Parameters"]["caught"] == {"Error.$": "$.caught.Error"}
    assert given_up["End"]
    (caught,) = states(machine)["NormalizeLoad"]["Catch"]
    assert caught["ErrorEquals"] == ["States.ALL"]


# --- settings -------------------------------------------------------------------------------------


def models(base: type[Settings] = Settings) -> set[type[Settings]]:
    """All settings models of the library."""
    for module in pkgutil.walk_packages(marketdata.__path__, "marketdata."):
        importlib.import_module(module.name)
    found = {base} - {Settings}
    for one in base.__subclasses__():
        if one.__module__.startswith("marketdata."):
            found |= models(one)
    return found


def read_by_functions() -> dict[str, Any]:
    """Variables that the library reads, with their defaults."""
    return {
        name.upper(): field.default for one in models() for name, field in one.model_fields.items()
    }


def test_functions_get_the_variables_that_they_read_and_no_others(resources: Resources) -> None:
    given = {
        name
        for function in of_type(resources, "Lambda::Function").values()
        for name in function["Environment"]["Variables"]
    }
    others = {"SETTINGS_VERSION", "POWERTOOLS_LOG_LEVEL", "POWERTOOLS_SERVICE_NAME"}
    # The secret has the URI; how long things are kept is the migrations' affair.
    elsewhere = {"MONGODB_URI", "RAW_RETENTION_DAYS", "SNAPSHOT_RETENTION_DAYS"}
    assert given - others == read_by_functions().keys() - elsewhere


def test_defaults_are_those_of_the_library() -> None:
    defaults = read_by_functions()
    for parameter in read_parameters(ROOT / "template.yaml").values():
        default = defaults.get(variable_of(parameter.name), PydanticUndefined)
        if default is not PydanticUndefined:
            assert parameter.default == str(default), parameter.name


def named_settings(text: str) -> set[str]:
    """What looks like a setting: in `code`, or assigned in an example for a shell or for .env."""
    examples = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, flags=re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = " ".join(re.findall(r"`([^`\n]+)`", prose))
    assigned = re.findall(
        r"^(?:\$ |#|export )?\s*([A-Z]\w*_\w+)=", "\n".join([*examples, prose]), re.MULTILINE
    )
    return {name for name in assigned if name.isupper()} | set(
        re.findall(r"(?<![\w/.])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![\w(])", spans)
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_settings_that_are_documented_exist(document: Any) -> None:
    named = {
        name
        for name in named_settings(document.read_text("utf-8"))
        # Those of AWS, of tests and benchmarks, and of the example of a further source.
        if not name.startswith(("AWS_", "TEST_", "BENCH_", "CHAOS_", "COINBOARD_"))
    }
    assert named <= setting_names() | OF_OTHER_TOOLS | OF_THE_TOOLS_HERE


def test_documented_settings_are_found_in_text() -> None:
    text = "`A_B=1`, `x/C_D` and `E_F`; G_H\n```bash\nexport I_J=1\n```\n#K_L=2\n"
    assert named_settings(text) == {"A_B", "E_F", "I_J", "K_L"}
