-- One row per fragment and team: fragments of split services are divided by their fixed shares, exactly.
with fragments as (
    select
        *,
        md5({{ key_of(["charge_id", "cell_id", "request_group_id", "meter"]) }}) as fragment_id
    from {{ ref("int_fragments_owned") }}
),

weighted as (
    select
        fragments.fragment_id,
        splits.team,
        {{ money_weight("splits.share") }} as weight,
        sum({{ money_weight("splits.share") }}) over (
            partition by fragments.fragment_id order by splits.team rows unbounded preceding
        ) as weight_upto,
        sum({{ money_weight("splits.share") }}) over (partition by fragments.fragment_id) as weight_total
    from fragments
    inner join {{ source("lake", "ownership_splits") }} as splits
        on fragments.rule = splits.rule
        and fragments.usage_date >= splits.valid_from
        and fragments.usage_date < splits.valid_to
    where fragments.is_split
)

select fragments.* exclude (is_split), 1::decimal(18, 12) as split_share
from fragments
where not is_split
union all by name
select
    fragments.* exclude (is_split, team, quantity, cost_usd, list_cost_usd),
    weighted.team,
    (weighted.weight::decimal(38, 0) * 0.000000000001::decimal(13, 12))::decimal(18, 12) as split_share,
    {% for amount in ["cost_usd", "list_cost_usd"] %}
    {{ exact_share("fragments." ~ amount, "weighted.weight", "weighted.weight_upto", "weighted.weight_total") }}
        as {{ amount }},
    {% endfor %}
    {{ exact_share(
        "fragments.quantity", "weighted.weight", "weighted.weight_upto", "weighted.weight_total",
        quantity_units("fragments.quantity")
    ) }} as quantity
from fragments
inner join weighted on fragments.fragment_id = weighted.fragment_id
