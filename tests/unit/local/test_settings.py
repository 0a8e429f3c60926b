"""Settings of the local stack: where they come from, and what is said about bad ones."""

from pathlib import Path

import pytest

from local.errors import SettingError
from local.parameters import overrides_from, read_parameters, variable_of
from local.settings import ROOT, Settings, read_dotenv, setting_names

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Parameters:
  CoingeckoApiUrl: {Type: String, Default: "https://api.example/coins"}
  CoingeckoPages: {Type: Number, Default: 1, MinValue: 1, MaxValue: 100}
  LogLevel: {Type: String, Default: INFO, AllowedValues: [DEBUG, INFO]}
  MongodbDatabase: {Type: String, Default: prices, AllowedPattern: "[a-z]+"}
  Environment: {Type: String, Default: dev, AllowedPattern: "[a-z]+"}
Resources:
  Bucket: {Type: AWS::S3::Bucket, Properties: {BucketName: !Sub "${AWS::StackName}-x"}}
  Other: {Type: AWS::S3::Bucket, DependsOn: [!Ref Bucket, !If [A, {b: c}, d]]}
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    return path


def load(template: Path, env: dict[str, str], dotenv: str = "") -> Settings:
    file = template.with_name(".env")
    file.write_text(dotenv)
    return Settings.load(env, dotenv=file, template=template)


def test_defaults(template: Path) -> None:
    settings = load(template, {})
    assert settings.local_state_dir == ROOT / ".local"
    assert (settings.mongodb_port, settings.localstack_port) == (27117, 4566)
    assert settings.upstream == "auto"
    assert settings.database == "prices"
    assert settings.overrides == {}


def test_the_environment_goes_before_dotenv(template: Path) -> None:
    dotenv = "MONGODB_PORT=1001\nLOCALSTACK_PORT=1002\nCOINGECKO_PAGES=3\n"
    settings = load(template, {"MONGODB_PORT": "2001"}, dotenv)
    assert (settings.mongodb_port, settings.localstack_port) == (2001, 1002)
    assert settings.overrides == {"CoingeckoPages": "3"}


def test_an_empty_value_counts_as_not_set(template: Path) -> None:
    settings = load(template, {"MONGODB_URI": "", "COINGECKO_PAGES": " "}, "LOG_LEVEL=\n")
    assert settings.mongodb_uri is None
    assert settings.overrides == {}


def test_an_empty_value_does_not_hide_what_the_file_says(template: Path) -> None:
    settings = load(template, {"COINGECKO_PAGES": "", "MONGODB_PORT": " "}, "COINGECKO_PAGES=3\n")
    assert settings.overrides == {"CoingeckoPages": "3"}
    assert settings.mongodb_port == 27117
    with pytest.raises(SettingError, match=r"at most 100 \(from \.env\)$"):
        load(template, {"COINGECKO_PAGES": ""}, "COINGECKO_PAGES=300\n")


def test_parameters_are_set_by_the_variable_of_their_name(template: Path) -> None:
    env = {"COINGECKO_API_URL": "http://127.0.0.1:1/x", "LOG_LEVEL": "DEBUG", "UNKNOWN": "1"}
    assert load(template, env).overrides == {
        "CoingeckoApiUrl": "http://127.0.0.1:1/x",
        "LogLevel": "DEBUG",
    }


def test_a_variable_of_a_common_name_does_not_change_what_is_known(template: Path) -> None:
    assert load(template, {"ENVIRONMENT": "PRODUCTION 2"}).overrides == {}


def test_the_database_can_be_set(template: Path) -> None:
    assert load(template, {"MONGODB_DATABASE": "other"}).database == "other"


@pytest.mark.parametrize(
    ("env", "dotenv", "message"),
    [
        ({"MONGODB_PORT": "abc"}, "", r"^MONGODB_PORT=abc: .*integer"),
        ({"MONGODB_PORT": "70000"}, "", r"^MONGODB_PORT=70000: .*65535$"),
        ({}, "REPLAY_PORT=0\n", r"^REPLAY_PORT=0: .* \(from \.env\)$"),
        ({"UPSTREAM": "maybe"}, "", r"^UPSTREAM=maybe: .*'auto', 'live' or 'replay'"),
        ({"MONGODB_URI": "localhost"}, "", r"^MONGODB_URI=localhost: must start with mongodb://"),
        ({"LOCAL_STATE_DIR": "/tmp"}, "", r"^LOCAL_STATE_DIR=/tmp: must be \.local"),  # noqa: S108
        ({"LOCAL_STATE_DIR": "functions"}, "", r"^LOCAL_STATE_DIR=functions: must be \.local"),
        ({"LOCAL_STATE_DIR": ".local/envs"}, "", r"^LOCAL_STATE_DIR=\.local/envs: must be"),
        ({"LOG_LEVEL": "LOUD"}, "", r"^LOG_LEVEL=LOUD: must be one of DEBUG, INFO$"),
        ({"COINGECKO_PAGES": "0"}, "", r"^COINGECKO_PAGES=0: must be at least 1$"),
        ({"COINGECKO_PAGES": "101"}, "", r"^COINGECKO_PAGES=101: must be at most 100$"),
        ({"COINGECKO_PAGES": "x"}, "", r"^COINGECKO_PAGES=x: must be a number$"),
        ({}, "MONGODB_DATABASE=A B\n", r"^MONGODB_DATABASE=A B: must match .* \(from \.env\)$"),
        ({}, "what\n", r"\.env, line 1: expected NAME=value, found 'what'$"),
    ],
)
def test_a_bad_value_is_named(
    template: Path, env: dict[str, str], dotenv: str, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        load(template, env, dotenv)


def test_a_key_is_never_shown(template: Path) -> None:
    settings = load(template, {"COINGECKO_API_KEY": "s3cret"})
    assert "s3cret" not in repr(settings)
    assert settings.coingecko_api_key is not None
    assert settings.coingecko_api_key.get_secret_value() == "s3cret"


def test_dotenv_understands_comments_export_and_quotes(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "# a comment\n\nexport A=1\nB = two words  # comment\nC='single # kept'\n"
        'D="a \\"quoted\\" word" # comment\nE=\nF=#none\nG=a#b\nURL=http://x/?a=b&c=d\n'
    )
    assert read_dotenv(file) == {
        "A": "1",
        "B": "two words",
        "C": "single # kept",
        "D": 'a "quoted" word',
        "E": "",
        "F": "",
        "G": "a#b",
        "URL": "http://x/?a=b&c=d",
    }
    assert read_dotenv(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("parameter", "variable"),
    [
        ("CoingeckoApiUrl", "COINGECKO_API_URL"),
        ("Sources", "SOURCES"),
        ("MongodbDatabase", "MONGODB_DATABASE"),
        ("Level2Depth", "LEVEL2_DEPTH"),
    ],
)
def test_variables_follow_from_parameter_names(parameter: str, variable: str) -> None:
    assert variable_of(parameter) == variable


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"none\.yaml is missing"):
        read_parameters(tmp_path / "none.yaml")


def test_the_defaults_of_the_real_template_pass_its_own_constraints() -> None:
    parameters = read_parameters(ROOT / "template.yaml")
    defaults = {one.variable: one.default for one in parameters.values() if one.default is not None}
    assert overrides_from(parameters, defaults).keys() <= parameters.keys()
    assert {"COINGECKO_API_URL", "MONGODB_PORT", "UPSTREAM"} <= setting_names()


def test_every_setting_in_the_example_file_exists() -> None:
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    names = {line[1:].partition("=")[0] for line in lines if line.startswith("#") and "=" in line}
    assert {name for name in names if name.isupper()} <= setting_names()
