-- One row per fragment and team: fragments of split services are divided between the teams of the split, exactly.
{{ config(materialized="view") }}
select
    fragments.* exclude (is_split, otherwise_team, owner_valid_from, split_driver, split_period, split_period_start),
    1::decimal(18, 12) as split_share,
    null::decimal(38, 12) as split_weight,
    null::decimal(38, 12) as split_total,
    null::varchar as split_driver,
    null::date as split_period_start
from {{ ref("int_fragments_owned") }} as fragments
where not fragments.is_split
union all by name
select
    fragments.* exclude (
        is_split, otherwise_team, owner_valid_from, split_period, team, owner_evidence, quantity, cost_usd, list_cost_usd
    ),
    splits.team,
    coalesce(splits.owner_evidence, fragments.owner_evidence) as owner_evidence,
    splits.split_share,
    splits.split_weight,
    splits.split_total,
    {% for amount in ["cost_usd", "list_cost_usd"] %}
    {{ exact_share("fragments." ~ amount, "splits.weight", "splits.weight_upto", "splits.weight_total") }}
        as {{ amount }},
    {% endfor %}
    {{ exact_share(
        "fragments.quantity", "splits.weight", "splits.weight_upto", "splits.weight_total",
        quantity_units("fragments.quantity")
    ) }} as quantity
from {{ ref("int_fragments_owned") }} as fragments
inner join {{ ref("int_splits_weighed") }} as splits
    on fragments.rule = splits.rule
    and fragments.owner_valid_from = splits.owner_valid_from
    and fragments.split_period_start is not distinct from splits.split_period_start
where fragments.is_split
