"""template.yaml and the state machine as they are written."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

from local.parameters import read_parameters, variable_of
from local.settings import ROOT, setting_names
from tests.support.template import FUNCTION_OF, machine, read_by_functions, states

DOCUMENTS = [ROOT / "README.md", ROOT / ".env.example", *sorted(ROOT.glob("docs/**/*.md"))]

OF_OTHER_TOOLS = {
    "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"
}  # fmt: skip
OF_THE_TOOLS_HERE = {"ENV_FILE", "LAMBDA_ARCHITECTURE"}


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


def test_addresses_of_sources_are_not_shown_as_they_may_have_a_key_in_them() -> None:
    text = (ROOT / "template.yaml").read_text("utf-8")
    parameters = yaml.load(text, StrictLoader)["Parameters"]  # noqa: S506 - a safe loader
    addresses = [name for name in parameters if name.endswith("ApiUrl")]
    assert len(addresses) > 1
    assert all(parameters[name].get("NoEcho") is True for name in addresses)


def test_retries_of_many_steps_never_come_in_step() -> None:
    """What failed for all of them at once is not met by all of them at once again."""
    retried = {name: one["Retry"] for name, one in states(machine()).items() if "Retry" in one}
    assert retried.keys() == FUNCTION_OF.keys() | {"Extract"}
    for name, retries in retried.items():
        for retry in retries:
            assert retry["JitterStrategy"] == "FULL", name
            assert retry["BackoffRate"] > 1, name
            assert 1 <= retry["IntervalSeconds"] < retry["MaxDelaySeconds"] <= 60, name
            assert 2 <= retry["MaxAttempts"] <= 6, name


def test_whatever_fails_the_run_is_closed() -> None:
    outer = machine()["States"]
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
    (caught,) = states(machine())["NormalizeLoad"]["Catch"]
    assert caught["ErrorEquals"] == ["States.ALL"]


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
