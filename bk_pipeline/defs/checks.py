"""Asset checks: what must hold of a day's data, and what to do where it does not.

They stand with the asset that they are about and are judged as it is made, so that a day
that is wrong is known to be wrong as soon as it is there.
"""

from typing import Any

import dagster as dg

NOTHING_SET_ASIDE = "nothing_set_aside"
EVERYTHING_ACCEPTED = "everything_accepted"

# More than a person reads at once; all of them: `bk-pipeline set-aside`.
SHOWN = 50


def nothing_set_aside(asset: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        NOTHING_SET_ASIDE,
        asset=asset,
        description="Every build could be made into spans. If not, `bk-pipeline set-aside` lists "
        "those that could not, with the reasons; their payloads are in the raw store. Report "
        "them: a payload that Buildkite sends should be understood.",
    )


def everything_accepted(asset: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        EVERYTHING_ACCEPTED,
        asset=asset,
        description="The destination rejected nothing. If it did, `bk-pipeline ledger rejected` "
        "lists what, with its words; mend the cause, then `bk-pipeline ledger requeue` has them "
        "sent again with the next run.",
    )


def judged(name: str, offenders: list[str], **looked_at: Any) -> dg.AssetCheckResult:
    """Passed if there are no `offenders`; they are shown if there are."""
    return dg.AssetCheckResult(
        check_name=name,
        passed=not offenders,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            **looked_at,
            "count": len(offenders),
            **({"first": offenders[:SHOWN]} if offenders else {}),
        },
    )
