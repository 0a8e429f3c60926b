"""Where the sources read from: the public APIs, the replay server, or an address of the user's."""

import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from local.parameters import API_URL_SUFFIX
from local.settings import Settings

Kind = Literal["live", "replay", "custom"]

PROBE_SECONDS = 3.0
_RATE_LIMITED = 429

# A quota protects a public API; the samples need none, and whoever tries the stack runs it often.
_WITHOUT_QUOTA = "100000"

# Asks for as little as the APIs can give; those that do not know a parameter ignore it.
_PROBE_QUERY = "?vs_currency=usd&per_page=1&page=1&limit=1"


@dataclass(frozen=True)
class Choice:
    """What one source reads from.

    Attributes:
        url: the address that the functions are given.
        kind: which of the three it is.
        reason: why the public API was not taken, if one tried to.
        instead_of: the address that sample data stands in for; empty where it does not.
    """

    url: str
    kind: Kind
    reason: str = ""
    instead_of: str = ""


def _ask(url: str) -> str:
    """Ask an API once. Returns an empty string when it answered as it should, else what it did."""
    request = urllib.request.Request(  # noqa: S310 - the template's own addresses
        url + _PROBE_QUERY, headers={"Accept": "application/json", "User-Agent": "marketdata-local"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as response:  # noqa: S310
            kind = response.headers.get_content_type()
            return "" if kind.endswith("json") else f"answered with {kind} instead of JSON"
    except urllib.error.HTTPError as error:
        error.close()
        # Too many requests: the API is there, and the pipeline knows how to wait.
        return "" if error.code == _RATE_LIMITED else f"answered with status {error.code}"
    except (OSError, ValueError) as error:
        return f"cannot be reached ({getattr(error, 'reason', error)})"


def probe(urls: Mapping[str, str]) -> dict[str, str]:
    """Ask all public APIs at once, with three seconds for all of it.

    Returns for each name an empty string when its API can be used, else the reason why not.
    """
    answers: dict[str, str] = {}

    def ask(name: str, url: str) -> None:
        answers[name] = _ask(url)

    # Threads that nobody waits for beyond the limit: looking up a name cannot be interrupted.
    threads = [
        threading.Thread(target=ask, args=(name, url), daemon=True) for name, url in urls.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PROBE_SECONDS)
    late = f"did not answer within {PROBE_SECONDS:g} s"
    return {name: answers.get(name, late) for name in urls}


def choose(settings: Settings) -> dict[str, Choice]:
    """Decide for every API parameter of the template what its source reads from.

    ``UPSTREAM=replay`` takes the replay server for all; else an address set by the user is used as
    given; else it is the public API, with ``UPSTREAM=auto`` only if that can be reached.
    """
    public = {
        parameter.name: parameter.default
        for parameter in settings.parameters.values()
        if parameter.name.endswith(API_URL_SUFFIX) and parameter.default
    }
    custom = {
        name: settings.overrides[name]
        for name, default in public.items()
        if settings.overrides.get(name, default) != default
    }
    unclear = {name: url for name, url in public.items() if name not in custom}
    problems = probe(unclear) if settings.upstream == "auto" else {}
    choices: dict[str, Choice] = {}
    for name, url in public.items():
        if settings.upstream == "replay":
            passed_over = custom.get(name, "")
            variable = settings.parameters[name].variable
            reason = f"{variable} is ignored, as UPSTREAM=replay is set" if passed_over else ""
            choices[name] = Choice(
                replay_url(settings, url), "replay", reason, instead_of=passed_over or url
            )
        elif name in custom:
            choices[name] = Choice(custom[name], "custom")
        elif problems.get(name):
            choices[name] = Choice(
                replay_url(settings, url), "replay", problems[name], instead_of=url
            )
        else:
            choices[name] = Choice(url, "live")
    return choices


def _default(settings: Settings, parameter: str) -> str | None:
    known = settings.parameters.get(parameter)
    return known.default if known else None


def of_samples(settings: Settings, choices: Mapping[str, Choice]) -> dict[str, str]:
    """Return template parameters for sources that read sample data, whose times stand still.

    Their quotas are lifted, and they never count as frozen. A parameter that the user has set
    stays as it is.
    """
    sampled = [
        name.removesuffix(API_URL_SUFFIX)
        for name, choice in choices.items()
        if choice.kind == "replay"
    ]
    wanted = {
        parameter: _WITHOUT_QUOTA
        for source in sampled
        for parameter in (f"{source}RatePerMinute", f"{source}Burst")
    }
    if sampled and (usual := _default(settings, "FrozenAfter")):
        never = [f"{source.lower()}=0" for source in sampled]
        wanted["FrozenAfter"] = ",".join([usual, *never])
    return {
        name: value
        for name, value in wanted.items()
        if name in settings.parameters and name not in settings.overrides
    }


def replay_url(settings: Settings, public_url: str) -> str:
    """Return where the replay server has what the public address has."""
    return f"http://127.0.0.1:{settings.replay_port}{urlsplit(public_url).path}"


def summary(choices: Mapping[str, Choice]) -> Kind:
    """Say in one word what all sources together read from; the least real one counts."""
    kinds = {choice.kind for choice in choices.values()}
    if "replay" in kinds:
        return "replay"
    return "custom" if "custom" in kinds else "live"
