"""What is done about drift: by policy, by how certain it is, and by what was decided before.

From 0.8 on a mapping is used unasked, from 0.5 on it is asked about, below it is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from marketdata.documents.mappings import BatchMapping
from marketdata.documents.reviews import ReviewState
from marketdata.schema.drift.finding import Finding
from marketdata.schema.drift.page import REQUIRED, Documented
from marketdata.schema.drift.policies import Policies, Policy
from marketdata.schema.mapping import APPLIED_FROM, QUARANTINED_FROM


@dataclass(frozen=True, slots=True)
class Settled:
    """What is done about everything that was found in a batch."""

    mapping: BatchMapping
    refused: str | None = None
    """Why the batch can't be loaded at all, with the remedy; None if it can."""
    gone: tuple[str, ...] = ()
    """Optional fields that the rows do without."""


def settle(
    documented: Documented,
    findings: Sequence[Finding],
    states: Mapping[str, ReviewState],
    policies: Policies,
) -> Settled:
    """What is done about what was found, by policy and by what was decided before.

    Args:
        documented: the source.
        findings: the fields that have drifted.
        states: by id, what is known of mappings.
        policies: by source and field.
    """
    mapping: BatchMapping = {"applied": [], "quarantined": [], "skipped": [], "discarded": []}
    gone = []
    for finding in findings:
        policy = policies.of(documented.source, finding.to)
        if policy is Policy.FREEZE:
            return Settled(mapping, _frozen(documented, finding))
        if policy is Policy.DISCARD:
            if finding.kind in {"retyped", "unit"} or finding.everywhere:
                mapping["discarded"].append(finding.to)
            gone.append(finding.to)
            continue
        before = _in_use(mapping)
        _decide(mapping, finding, states, policy)
        rejected = any(
            one["to"] == finding.to and one.get("rejected") for one in mapping["skipped"]
        )
        if _in_use(mapping) == before and not rejected:
            if finding.required and finding.everywhere:
                return Settled(mapping, _refused(documented, finding))
            gone.append(finding.to)
    return Settled(mapping, gone=tuple(name for name in gone if name not in REQUIRED))


def _in_use(mapping: BatchMapping) -> int:
    return len(mapping["applied"]) + len(mapping["quarantined"])


def _decide(
    mapping: BatchMapping,
    finding: Finding,
    states: Mapping[str, ReviewState],
    policy: Policy,
) -> None:
    """Put each candidate of a field into a part of the mapping."""
    approved = any(states.get(c["id"]) is ReviewState.APPROVED for c in finding.candidates)
    for one in finding.candidates:
        state = states.get(one["id"])
        if approved and state is not ReviewState.APPROVED:
            why = "Another mapping of the field was approved."
            mapping["skipped"].append({**one, "reason": why})
        elif state is ReviewState.REJECTED:
            mapping["skipped"].append({**one, "rejected": True})
        else:
            mapping[_part(one["confidence"], state, policy)].append(one)


def _part(
    confidence: float, state: ReviewState | None, policy: Policy
) -> Literal["applied", "quarantined", "skipped"]:
    """Where a mapping belongs that nobody has rejected."""
    if state is ReviewState.APPROVED:
        return "applied"
    if state is ReviewState.QUARANTINED:
        return "quarantined"
    if confidence < QUARANTINED_FROM:
        return "skipped"
    # What was certain once goes on being used, if it is less so now.
    certain = confidence >= APPLIED_FROM or state is ReviewState.APPLIED
    return "applied" if certain and policy is Policy.EVOLVE else "quarantined"


def _frozen(documented: Documented, finding: Finding) -> str:
    return (
        f"{documented.source}: `{documented.fields[finding.to]}` ({finding.to}) {finding.what}, "
        "and the policy is `freeze`: nothing of this batch is loaded, and its rows are kept. Set "
        f"DRIFT_POLICY to {documented.source}.{finding.to}=evolve or quarantine, deploy, and ask "
        "for POST /runs/{run_id}/retry."
    )


def _refused(documented: Documented, finding: Finding) -> str:
    said = f"{documented.source}: the field `{documented.fields[finding.to]}` ({finding.to}) "
    likely = [one for one in finding.candidates if one["confidence"] > 0][:3]
    nearest = "; ".join(f"`{one['from']}`: {one['reason']}" for one in likely)
    none = f"no other field can be it ({nearest})" if nearest else "no other field is like it"
    return (
        f"{said}{finding.what}, and {none}. Nothing of this batch is loaded, and its rows are "
        "kept. Teach the source where the field is (docs/adding-a-source.md), deploy, and ask for "
        "POST /runs/{run_id}/retry."
    )
