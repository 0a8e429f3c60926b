"""The parameters of ``template.yaml``, and how environment variables set them.

A parameter in CamelCase is set by the variable of the same name in capitals: ``CoingeckoApiUrl``
by ``COINGECKO_API_URL``. There is no table of them: a parameter added to the template can be set
at once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local.errors import SettingError
from marketdata.masking import masked

API_URL_SUFFIX = "ApiUrl"
"""Parameters that end so hold the address of a public API that a source reads."""


class _TemplateLoader(yaml.SafeLoader):
    """Reads a template without interpreting CloudFormation's short forms such as ``!Ref``."""


def _plain(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_TemplateLoader.add_multi_constructor("!", _plain)


def variable_of(parameter: str) -> str:
    """Return the environment variable that sets a template parameter."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", parameter).upper()


@dataclass(frozen=True)
class Parameter:
    """One parameter of the template."""

    name: str
    default: str | None
    allowed: tuple[str, ...] = ()
    pattern: str | None = None
    smallest: float | None = None
    largest: float | None = None
    number: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that sets this parameter."""
        return variable_of(self.name)

    def problem_with(self, value: str) -> str | None:
        """Say what is wrong with a value, or return None when CloudFormation would take it."""
        if self.allowed and value not in self.allowed:
            return f"must be one of {', '.join(self.allowed)}"
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            return f"must match {self.pattern}"
        if self.number:
            try:
                number = float(value)
            except ValueError:
                return "must be a number"
            if self.smallest is not None and number < self.smallest:
                return f"must be at least {self.smallest:g}"
            if self.largest is not None and number > self.largest:
                return f"must be at most {self.largest:g}"
        return None


def _bound(value: Any) -> float | None:
    return None if value is None else float(value)


def read_parameters(template: Path) -> dict[str, Parameter]:
    """Read the parameters that a template declares, by name.

    Raises:
        SettingError: the template is missing or is no YAML mapping.
    """
    try:
        document = yaml.load(template.read_text("utf-8"), Loader=_TemplateLoader)  # noqa: S506
    except FileNotFoundError:
        raise SettingError(f"{template} is missing: run this inside a complete clone") from None
    except yaml.YAMLError as error:
        raise SettingError(f"{template} is not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise SettingError(f"{template} is not a CloudFormation template")
    return {
        name: Parameter(
            name=name,
            default=None if "Default" not in body else str(body["Default"]),
            allowed=tuple(str(value) for value in body.get("AllowedValues", ())),
            pattern=body.get("AllowedPattern"),
            smallest=_bound(body.get("MinValue")),
            largest=_bound(body.get("MaxValue")),
            number=body.get("Type") == "Number",
        )
        for name, body in (document.get("Parameters") or {}).items()
    }


def overrides_from(
    parameters: Mapping[str, Parameter], values: Mapping[str, str]
) -> dict[str, str]:
    """Return the parameters that ``values`` set by variable name, checked as CloudFormation would.

    Raises:
        SettingError: a value that the template does not allow; names the variable.
    """
    overrides = {}
    for parameter in parameters.values():
        value = values.get(parameter.variable)
        if value is None:
            continue
        problem = parameter.problem_with(value)
        if problem is not None:
            shown = masked(value) if parameter.variable.endswith("_URL") else value
            raise SettingError(f"{parameter.variable}={shown}: {problem}")
        overrides[parameter.name] = value
    return overrides
