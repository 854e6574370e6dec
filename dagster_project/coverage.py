"""How much of the latest month is known badly: money without an owner, claimed by another team, untagged, or
billed for no reason that the usage report and our prices know.

Missing knowledge never blocks publication. It is told after it, with the share, the threshold of sources.yaml
(`coverage:`), those who make up most of it, and what to edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb

from dagster_project.settings import Coverage
from dagster_project.terminal import plain

CHECKS: Mapping[str, str] = {
    "unowned_share": "How much of the latest month's cost has no owner.",
    "conflict_share": "How much of the latest month's cost tags claim for another team than pays it.",
    "untagged_share": "How much of the latest month's cost lacks the tags that sources.yaml expects.",
    "unexplained_share": "How much of the latest month is billed without usage, or used without a bill.",
    "mispriced_share": "How far the latest month's bill is from our prices, as a share of its cost.",
}
"""The checks, named as in sources.yaml, and what each tells."""

MOST_OFFENDERS = 5

_UNOWNED = """
select
    coalesce(selector, 'what nothing is known of'),
    case
        when map_lines is not null then 'paste its map_lines of unowned_identities'
        when rule_place is not null then concat('say at ', rule_place, ' who pays, e.g. with `otherwise`')
        else 'see unowned_identities'
    end,
    sum(cost_usd)
from unowned_identities
where month = $month
group by all
union all
select
    rule,
    case
        when owner_evidence = 'nobody pays anything'
            then concat('say at ', rule_place, ' who pays, e.g. with `otherwise`')
        else 'it follows the costs that it is divided by'
    end,
    sum(cost_usd)
from fct_cost_allocations
where
    date_trunc('month', usage_date) = $month
    and team = 'unallocated'
    and charge_match = 'by policy'
    and corrects_date is null
group by all
"""

_CONFLICTS = """
select
    concat(team, ' pays by ', rule_place),
    concat('the tag ', tag_key, ': ', tag_value, ' claims it by ', claimed_rule_place),
    sum(cost_usd)
from tag_conflicts
where month = $month
group by all
"""

_UNTAGGED = """
select
    case
        when gateway is null then concat(team, ', unseen by any gateway')
        else concat(
            team, ', ', coalesce(max(gateway_key_name), gateway_key_id, 'no key'), ' of ', gateway
        )
    end,
    case
        when gateway is null then 'send it through a gateway'
        else concat('its callers have to send the tag `', $tag_key, '`')
    end,
    sum(cost_usd - tagged_cost_usd)
from tag_coverage
where date_trunc('month', usage_date) = $month and tag_key = $tag_key
group by team, gateway, gateway_key_id
"""

# Amounts of both signs are differences, and must not hide each other.
_OF_THE_BILL = """
select concat_ws(' ', provider, account_id, '-', evidence), $remedy, sum(abs(amount_usd))
from reconciliation_causes
where date_trunc('month', usage_date) = $month and delta = 'billed minus usage' and cause = $cause
group by all
"""


@dataclass(frozen=True)
class Finding:
    """What one of `CHECKS` found. `shares` are exact, of the month's cost: one, or one for each tag key."""

    check: str
    passed: bool
    message: str
    shares: Mapping[str, Decimal]


@dataclass(frozen=True)
class _Question:
    """`query` answers with rows of: who, what to do about it, how much in USD."""

    check: str
    share_of: str
    what: str
    query: str
    threshold: Decimal
    parameters: Mapping[str, str] = field(default_factory=dict)


def findings(published: Path, thresholds: Coverage) -> Sequence[Finding]:
    """One finding for each of `CHECKS`, of the latest month of the published warehouse."""
    with duckdb.connect(str(published), read_only=True) as warehouse:
        months = warehouse.execute(
            "select month, sum(cost_usd) from chargeback_by_team group by all order by month desc limit 1"
        ).fetchall()
        questions = list(_questions(thresholds))
        return [
            _finding(
                warehouse, check, [question for question in questions if question.check == check], months
            )
            for check in CHECKS
        ]


def _questions(thresholds: Coverage) -> Iterator[_Question]:
    yield _Question("unowned_share", "unowned", "has no owner", _UNOWNED, thresholds.unowned_share)
    claimed = "is claimed for another team than pays it"
    yield _Question("conflict_share", "conflict", claimed, _CONFLICTS, thresholds.conflict_share)
    for tag_key, threshold in thresholds.untagged_share.items():
        untagged = f"lacks the tag `{tag_key}`"
        yield _Question("untagged_share", tag_key, untagged, _UNTAGGED, threshold, {"tag_key": tag_key})
    yield _Question(
        "unexplained_share",
        "unexplained",
        "has no explanation in the usage report",
        _OF_THE_BILL,
        thresholds.unexplained_share,
        {"cause": "unexplained", "remedy": "see reconciliation_by_key, and ask the provider"},
    )
    yield _Question(
        "mispriced_share",
        "mispriced",
        "is above or below our prices",
        _OF_THE_BILL,
        thresholds.mispriced_share,
        {"cause": "price", "remedy": "write what you agreed on into contract_prices.csv"},
    )


def _finding(
    warehouse: duckdb.DuckDBPyConnection,
    check: str,
    questions: Sequence[_Question],
    months: Sequence[tuple[date, Decimal | None]],
) -> Finding:
    ((month, total),) = months or [(None, None)]
    # A month of credits only has no shares.
    if not questions or total is None or total <= 0:
        return Finding(check, True, "no tag is expected" if not questions else "the month has no cost", {})
    shares: dict[str, Decimal] = {}
    told: list[str] = []
    for question in questions:
        rows = warehouse.execute(question.query, {"month": month, **question.parameters}).fetchall()
        amount = sum((usd for *_, usd in rows if usd is not None), Decimal(0))
        share = shares[question.share_of] = amount / total
        told.append(
            f"{share:.2%} of {month:%B %Y}'s cost {question.what} ({question.threshold:.2%} is allowed): "
            f"{amount:,.2f} of {total:,.2f} USD"
        )
        if share > question.threshold:
            offenders = sorted((row for row in rows if row[2]), key=lambda row: (-row[2], row[0]))
            told += [
                f"  {usd:,.2f} USD {plain(who)}: {plain(remedy)}"
                for who, remedy, usd in offenders[:MOST_OFFENDERS]
            ]
    passed = all(shares[question.share_of] <= question.threshold for question in questions)
    return Finding(check, passed, "\n".join(told), shares)
