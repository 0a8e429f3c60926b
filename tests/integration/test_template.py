"""template.yaml as CloudFormation gets to see it, expanded by SAM."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from local.build import ENVS
from local.settings import ROOT
from tests.support.template import FUNCTION_OF, machine, read_by_functions, states

type Resources = dict[str, dict[str, Any]]

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


def test_the_bucket_is_listed_no_further_than_it_takes(resources: Resources) -> None:
    """Under the prefix in whatever case; and of all else, only what stands at the top."""
    allowed = {}
    for function in of_type(resources, "Lambda::Function").values():
        role = of_type(resources, "IAM::Role")[function["Role"]["Fn::GetAtt"][0]]
        conditions = [
            statement["Condition"]
            for policy in role.get("Policies", ())
            for statement in policy["PolicyDocument"]["Statement"]
            if "s3:ListBucketVersions" in listed(statement["Action"])
        ]
        if conditions:
            allowed[function["FunctionName"]["Fn::Sub"].rpartition("-")[2]] = conditions
    assert allowed == {
        "open_run": [
            {"StringEqualsIgnoreCase": {"s3:prefix": "incoming/"}},
            {"StringEquals": {"s3:prefix": "", "s3:delimiter": "/"}},
        ],
        "extract_csv": [{"StringLike": {"s3:prefix": "incoming/*"}}],
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


def test_every_step_gives_up_after_its_function_would_have(resources: Resources) -> None:
    functions = of_type(resources, "Lambda::Function")
    tasks = {name: one for name, one in states(machine()).items() if one["Type"] == "Task"}
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
    assert machine()["TimeoutSeconds"] == 24 * 3600


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
