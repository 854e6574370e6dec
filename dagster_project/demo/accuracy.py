"""How much of the bill reaches its true owner: by this pipeline, and by the usual ways of doing it.

An owner is a team and an environment. For each UTC day, provider and model, what a method gives to an
owner is right up to what that owner really caused: share = Σ min(given, caused) / Σ caused. A method
that gives a dollar to nobody, or to the wrong one, loses it.

    this pipeline            fct_cost_allocations
    gateway cost by tag      what the gateway thinks requests cost, by the team and environment of their tags
    provider key owner       the same bill, each provider key all its listed owner's
    evidence exists          no method: dollars of which some record names the true owner. What is beyond
                             it (a key that two services share without tags, a lost log record, an owner
                             that the map leaves out) a split can still hit by chance
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl

from dagster_project.demo.roster import KEYS

OURS = "this pipeline"
BY_TAG = "gateway cost by tag"
BY_KEY = "provider key owner"
CEILING = "evidence exists"

_SCHEMA = {
    "method": pl.String,
    "share_to_true_owner": pl.Decimal(9, 6),
    "right_usd": pl.Decimal(38, 12),
    "given_usd": pl.Decimal(38, 12),
    "caused_usd": pl.Decimal(38, 12),
}

_FAMILY = r"regexp_replace(coalesce(model, 'unspecified'), '-\d{4}-?\d{2}-?\d{2}$', '')"
"""A gateway says `gpt-5.5` where the bill says `gpt-5.5-2026-04-23`; the snapshot is nobody's mistake."""

_QUERY = f"""
with caused as (
  select usage_date, provider, model, team, environment, sum(cost_usd) as usd,
    sum(cost_usd) filter (unknowable_because is null) as knowable_usd
  from truth where cost_usd > 0
  group by all
),
allocated as (
  -- The bill's usage lines: credits and taxes have no true owner.
  select usage_date, provider, provider_project_id, api_key_id, model, team, environment, cost_usd
  from warehouse.fct_cost_allocations where charge_category = 'usage'
),
given as (
  select '{OURS}' as method, usage_date, provider, model, team, environment, sum(cost_usd) as usd
  from allocated where team <> 'unallocated'
  group by all
  union all by name
  select '{BY_TAG}' as method, usage_date, provider, model, lower(trim(tags['team'])) as team,
    case lower(trim(tags['environment']))
      when 'prod' then 'production' when 'stage' then 'staging' when 'dev' then 'development'
      else lower(trim(tags['environment'])) end as environment,
    sum(reported_cost) as usd
  from warehouse.fct_requests where reported_cost > 0
  group by all
  union all by name
  select '{BY_KEY}' as method, usage_date, allocated.provider, model, key_owners.team,
    key_owners.environment, sum(cost_usd) as usd
  from allocated
  join key_owners on allocated.provider = key_owners.provider
    and allocated.provider_project_id = key_owners.provider_project_id
    and allocated.api_key_id = key_owners.api_key_id
  group by all
),
given_by_family as (
  select method, usage_date, provider, family(model) as model, team, environment, sum(usd) as usd
  from given where team is not null and environment is not null
  group by all
),
caused_by_family as (
  select usage_date, provider, family(model) as model, team, environment,
    sum(usd) as usd, sum(knowable_usd) as knowable_usd
  from caused
  group by all
),
totals as (
  select sum(usd) as usd, sum(knowable_usd) as knowable_usd from caused_by_family
),
methods as (
  select method, sum(given.usd) as given_usd,
    -- least() passes over a null, and would call right what nobody caused
    sum(case when caused.usd is null then 0 else least(given.usd, caused.usd) end) as right_usd
  from given_by_family as given
  left join caused_by_family as caused
    on given.usage_date = caused.usage_date and given.provider = caused.provider
    and given.model = caused.model and given.team = caused.team
    and given.environment = caused.environment
  group by method
  union all by name
  select '{CEILING}' as method, knowable_usd as given_usd, knowable_usd as right_usd from totals
)
select method, round(right_usd / totals.usd, 6) as share, right_usd, given_usd, totals.usd
from methods cross join totals
order by share desc, method
"""


def measure(truth: Path, warehouse: Path) -> pl.DataFrame:
    """One row per method: its share (0 to 1), and in USD what it got right, gave to anybody, and what
    there was to give. `truth` is a simulation's, `warehouse` the published database of its pull.
    """
    owners = ", ".join(
        f"('{key.provider}', '{key.project}', '{name}', '{key.team}', '{key.environment}')"
        for name, key in KEYS.items()
    )
    with duckdb.connect() as connection:
        connection.execute(f"attach '{warehouse}' as warehouse (read_only)")
        connection.execute(f"create macro family(model) as {_FAMILY}")
        connection.execute(f"create view truth as from read_parquet('{truth}')")
        connection.execute(
            "create table key_owners (provider varchar, provider_project_id varchar, api_key_id varchar, "
            f"team varchar, environment varchar); insert into key_owners values {owners}"
        )
        rows = connection.execute(_QUERY).fetchall()
    exact = [(method, Decimal(str(share)), *usd) for method, share, *usd in rows]
    return pl.DataFrame(exact, schema=_SCHEMA, orient="row")
