-- One row per cell (or request coordinate that met none) and cause of what was used beyond the rated requests.
-- What one meter or tier lacks and another has too much of, of the same key and model, was counted differently; so were
-- requests by a meter that the usage report of their key and model does not have.
{% set model = "usage_date, provider, account_id, provider_project_id, api_key_id, model_key" %}
with measured as (
    select
        *,
        coalesce(rated_usage_usd, 0) as used_usd,
        coalesce(rated_requests_usd, 0) as asked_usd,
        is_used and (is_counted or evidence <> 'charge' or is_beside_usage) as is_comparable,
        greatest(usage_weight - requests_weight, 0) as unseen_weight,
        greatest(requests_weight - usage_weight, 0) as over_weight
    from {{ ref("int_cells_reconciled") }}
    where is_reported
),

valued as (
    select
        *,
        case
            when requests_weight <= 0 or usage_weight <= 0 then used_usd
            else {{ in_proportion("used_usd", "unseen_weight", "usage_weight") }}
        end as unseen_usd,
        case
            when requests_weight <= 0 or usage_weight <= 0 then asked_usd
            else {{ in_proportion("asked_usd", "over_weight", "requests_weight") }}
        end as over_usd,
        sum(unseen_weight) over family as family_unseen_weight,
        sum(over_weight) over family as family_over_weight,
        bool_or(is_counted) over model and not bool_or(is_counted) over family as is_of_other_meter
    from measured
    where is_comparable
    window model as (partition by {{ model }}), family as (partition by {{ model }}, family)
),

offsets as (
    select
        *,
        {{ offset_by_other("unseen_usd", "family_unseen_weight", "family_over_weight") }} as unseen_offset_usd,
        {{ offset_by_other("over_usd", "family_over_weight", "family_unseen_weight") }} as over_offset_usd
    from valued
),

explained as (
    select
        cell_id,
        'unseen_traffic' as cause,
        'unseen' as finding,
        unseen_usd - unseen_offset_usd as amount_usd
    from offsets
    union all
    select
        cell_id,
        case when is_of_other_meter then 'tier_and_cache' else 'over_coverage' end as cause,
        case
            when is_of_other_meter then 'counted otherwise'
            when is_counted then 'beyond usage'
            else 'unreported'
        end as finding,
        over_offset_usd - over_usd as amount_usd
    from offsets
    union all
    select
        cell_id,
        'tier_and_cache' as cause,
        'counted otherwise' as finding,
        unseen_offset_usd - over_offset_usd as amount_usd
    from offsets
    union all
    select
        cell_id,
        case when is_usage_priced and is_requests_priced and not is_on_same_terms then 'tier_and_cache' else 'price' end
            as cause,
        case
            when not is_usage_priced then 'usage unpriced'
            when not is_requests_priced then 'requests unpriced'
            when is_on_same_terms then 'time of day'
            else 'rated otherwise'
        end as finding,
        (used_usd - unseen_usd) - (asked_usd - over_usd) as amount_usd
    from offsets
    union all
    select
        cell_id,
        'unsettled' as cause,
        'no usage' as finding,
        -asked_usd as amount_usd
    from measured
    where not is_comparable
)

select
    cell_id,
    cause,
    finding,
    amount_usd::decimal(38, 12) as amount_usd
from explained
where amount_usd <> 0
