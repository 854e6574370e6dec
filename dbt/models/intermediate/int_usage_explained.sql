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

-- Of each family of meters: how much it lacks and has too much of, and whether anything of it was used.
families as (
    select
        {{ model }},
        family,
        sum(unseen_weight) as unseen_weight,
        sum(over_weight) as over_weight,
        bool_or(is_counted) as is_counted
    from measured
    where is_comparable
    group by all
),

-- Few have both; a family of which nothing was used is beside others of its model, or is not.
counted_otherwise as (
    select
        families.*,
        not families.is_counted and exists (
            select 1
            from families as others
            where
                others.is_counted
                and others.usage_date = families.usage_date
                and others.provider = families.provider
                {%- for column in ["account_id", "provider_project_id", "api_key_id", "model_key"] %}
                and others.{{ column }} is not distinct from families.{{ column }}
                {%- endfor %}
        ) as is_of_other_meter
    from families
    where not families.is_counted or (families.unseen_weight > 0 and families.over_weight > 0)
),

valued as (
    select
        measured.*,
        case
            when measured.requests_weight <= 0 or measured.usage_weight <= 0 then measured.used_usd
            else {{ in_proportion("measured.used_usd", "measured.unseen_weight", "measured.usage_weight") }}
        end as unseen_usd,
        case
            when measured.requests_weight <= 0 or measured.usage_weight <= 0 then measured.asked_usd
            else {{ in_proportion("measured.asked_usd", "measured.over_weight", "measured.requests_weight") }}
        end as over_usd,
        coalesce(families.unseen_weight, 0) as family_unseen_weight,
        coalesce(families.over_weight, 0) as family_over_weight,
        coalesce(families.is_of_other_meter, false) as is_of_other_meter
    from measured
    left join counted_otherwise as families
        on measured.usage_date = families.usage_date
        and measured.provider = families.provider
        {%- for column in ["account_id", "provider_project_id", "api_key_id", "model_key", "family"] %}
        and measured.{{ column }} is not distinct from families.{{ column }}
        {%- endfor %}
    where measured.is_comparable
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
