"""Settings of the local stack: from the environment, else ``.env``, else the defaults below."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from local.errors import SettingError
from local.parameters import Parameter, overrides_from, read_parameters

ROOT = Path(__file__).resolve().parent.parent
"""The clone that this file belongs to."""

DECIDED_HERE = {"Environment", "Architecture", "SettingsVersion"}
"""Template parameters that no setting changes: the local stack knows them."""

Port = Annotated[int, Field(ge=1, le=65535)]
Days = Annotated[int, Field(ge=0, le=24_855)]
"""As many as MongoDB takes for an expiry."""

_NOT_A_STACK = {"envs", "build", "build-cache", "sam", "run", "logs", "mongodb", "s3", "lambda"}

_ASSIGNMENT = re.compile(r"^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$")
_QUOTED = re.compile(r"""^(?:"((?:[^"\\]|\\.)*)"|'([^']*)')\s*(?:\#.*)?$""")


def read_dotenv(path: Path) -> dict[str, str]:
    """Read ``NAME=value`` lines; understands comments, ``export`` and quotes, expands nothing.

    Returns an empty mapping when there is no such file.

    Raises:
        SettingError: a line that is none of these; names the file and the line.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return {}
    values = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        assignment = _ASSIGNMENT.match(line)
        if assignment is None:
            raise SettingError(f"{path}, line {number}: expected NAME=value, found {line!r}")
        name, value = assignment.groups()
        quoted = _QUOTED.match(value)
        if quoted is None:
            value = re.sub(r"(^|\s+)#.*$", "", value)
        elif quoted[1] is not None:
            value = re.sub(r"\\(.)", r"\1", quoted[1])
        else:
            value = quoted[2]
        values[name] = value
    return values


class Settings(BaseModel):
    """What a user can set. A field is set by the variable of its name in capitals."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_default=True)

    local_state_dir: Path = Path(".local")
    """Folder for data, logs and process ids; relative to the clone."""
    stack_name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,127}$")] = "marketdata-local"
    mongodb_port: Port = 27117
    localstack_port: Port = 4566
    replay_port: Port = 8099
    replay_requests_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """How many requests each API of the replay server takes in a minute; 0 for any number."""
    sam_port: Port = 3000
    """Of `sam local start-api`."""
    mongodb_uri: str | None = None
    """A MongoDB of the user's own: then no mongod is started."""
    mongodb_cache_gb: Annotated[float, Field(ge=0.25, le=1024)] = 1.0
    """Most memory that mongod's cache takes, in GiB."""
    upstream: Literal["auto", "live", "replay"] = "auto"
    run_timeout: Annotated[float, Field(gt=0)] = 900
    """Seconds that ``run`` and ``refresh`` wait for a run's end."""
    raw_retention_days: Days = 0
    """How long raw batches are kept; 0 is for ever. The migrations apply it."""
    snapshot_retention_days: Days = 0
    """The same of the APIs' records."""
    aws_region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")] = "us-east-1"
    coingecko_api_key: SecretStr | None = None
    coinpaprika_api_key: SecretStr | None = None

    parameters: dict[str, Parameter] = Field(default_factory=dict, exclude=True)
    """What the template declares."""
    overrides: dict[str, str] = Field(default_factory=dict, exclude=True)
    """Template parameters set by the user, by parameter name."""

    @field_validator("local_state_dir")
    @classmethod
    def _inside_the_clone(cls, value: Path) -> Path:
        # `clean` empties this folder, so it must never be one that holds anything else.
        folder = (ROOT / value).resolve()
        own = (ROOT / ".local").resolve()
        if folder != own and (folder.parent != own or folder.name in _NOT_A_STACK):
            raise ValueError("must be .local or .local/NAME with a name that is not in use there")
        return folder

    @field_validator("mongodb_uri")
    @classmethod
    def _mongodb_scheme(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must start with mongodb:// or mongodb+srv://")
        return value

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        dotenv: Path | None = None,
        template: Path = ROOT / "template.yaml",
    ) -> Self:
        """Read the settings; an empty value counts as not set, wherever it stands.

        Args:
            environ: variables, by default the process's own.
            dotenv: the file with further ones; by default ``ENV_FILE``, else ``.env`` in the clone.
            template: where the parameters are declared.

        Raises:
            SettingError: a value that cannot be used; names the setting and where it came from.
        """
        environ = os.environ if environ is None else environ
        if dotenv is None:
            dotenv = ROOT / (environ.get("ENV_FILE") or ".env")
        # An empty variable hides nothing: what the file says is used then.
        given = _not_empty(environ)
        values = {**_not_empty(read_dotenv(dotenv)), **given}

        def origin(name: str) -> str:
            return "" if name in given else f" (from {dotenv.name})"

        parameters = read_parameters(template)
        try:
            overrides = overrides_from(
                {name: one for name, one in parameters.items() if name not in DECIDED_HERE}, values
            )
        except SettingError as error:
            name = str(error).partition("=")[0]
            raise SettingError(f"{error}{origin(name)}") from None
        own = {
            field: values[field.upper()] for field in cls.model_fields if field.upper() in values
        }
        try:
            return cls.model_validate({**own, "parameters": parameters, "overrides": overrides})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]).upper()
            reason = first["msg"].removeprefix("Value error, ")
            shown = "…" if name.endswith("_KEY") else values.get(name, "")
            raise SettingError(f"{name}={shown}: {reason}{origin(name)}") from None

    @property
    def address(self) -> str:
        """LocalStack's address, for ``AWS_ENDPOINT_URL``."""
        return f"http://127.0.0.1:{self.localstack_port}"

    @property
    def retention(self) -> dict[str, str]:
        """How long things are kept, as variables for the migrations."""
        days = {
            "RAW_RETENTION_DAYS": self.raw_retention_days,
            "SNAPSHOT_RETENTION_DAYS": self.snapshot_retention_days,
        }
        return {name: str(value) for name, value in days.items()}

    @property
    def database(self) -> str:
        """Name of the database that the functions use."""
        declared = self.parameters.get("MongodbDatabase")
        default = declared.default if declared is not None and declared.default else "marketdata"
        return self.overrides.get("MongodbDatabase", default)


def _not_empty(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value.strip()}


def setting_names(template: Path = ROOT / "template.yaml") -> set[str]:
    """Return every environment variable that has a meaning for the local stack."""
    own = {name.upper() for name in Settings.model_fields} - {"PARAMETERS", "OVERRIDES"}
    return own | {parameter.variable for parameter in read_parameters(template).values()}
