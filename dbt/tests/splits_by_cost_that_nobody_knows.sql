-- What a team used without a price weighs nothing where a service is split by cost: a warning, with the team.
{{ config(severity="warn", meta={"dagster": {"ref": {"name": "int_splits_weighed"}}}) }}
with by_cost as (
    select distinct owned.rule, owned.rule_place, owned.split_period, owned.split_period_start, splits.team
    from {{ ref("int_fragments_owned") }} as owned
    inner join {{ source("lake", "ownership_splits") }} as splits
        on owned.rule = splits.rule
        and owned.owner_valid_from = splits.valid_from
    where owned.split_driver = 'cost'
)

select
    by_cost.rule,
    by_cost.rule_place,
    by_cost.split_period_start,
    by_cost.team,
    fragments.provider,
    fragments.model,
    fragments.quantity_unit,
    sum(fragments.quantity) as unpriced_quantity
from by_cost
inner join {{ ref("int_fragments_owned") }} as fragments
    on by_cost.team = fragments.team
    and by_cost.split_period_start = {{ split_period_start("by_cost.split_period", "fragments.usage_date") }}
where not fragments.is_split and fragments.cost_usd is null
group by all
