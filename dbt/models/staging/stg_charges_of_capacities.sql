-- One row per declared capacity, UTC day and model that used it: its part of the day's amount, a token of the capacity
-- costing what any other does; and one per capacity and day for what nobody used. Use beyond the capacity takes all of it.
{{ config(materialized="table") }}
with capacities as (
    select lines.*, declared.* exclude (source, name, valid_from, valid_to)
    from {{ ref("stg_charges_delivered") }} as lines
    inner join {{ source("lake", "declared_capacities") }} as declared
        on lines.source = declared.source
        and lines.line_item = declared.name
        and {{ holds_on("declared", "lines.usage_date") }}
),

used as (
    select
        capacities.charge_id,
        cells.model,
        cells.model_key,
        sum(cells.quantity) as tokens
    from capacities
    inner join {{ ref("stg_usage") }} as cells
        on capacities.usage_date = cells.usage_date
        and capacities.provider = cells.provider
        and capacities.account_id is not distinct from cells.account_id
        and (capacities.of_service_tier is null or coalesce(cells.service_tier = capacities.of_service_tier, false))
        and {{ matches_if_said("cells.model", "capacities.of_model_like") }}
    where cells.unit = 'tokens'
    group by all
),

-- What is not used weighs like the tokens that it would have been.
parts as (
    select charge_id, model, model_key, tokens, true as is_used from used
    union all
    select
        capacities.charge_id,
        null as model,
        null as model_key,
        capacities.tokens_per_day - coalesce(sum(used.tokens), 0) as tokens,
        false as is_used
    from capacities
    left join used on capacities.charge_id = used.charge_id
    group by capacities.charge_id, capacities.tokens_per_day
    having capacities.tokens_per_day > coalesce(sum(used.tokens), 0)
),

cumulated as (
    select
        *,
        {{ quantity_weight("tokens") }} as weight,
        sum({{ quantity_weight("tokens") }}) over (capacity order by is_used desc, model rows unbounded preceding)
            as weight_upto,
        sum({{ quantity_weight("tokens") }}) over (capacity) as weight_total
    from parts
    window capacity as (partition by charge_id)
)

select
    capacities.* exclude (tokens_per_day, of_service_tier, of_model_like) replace (
        case
            when cumulated.is_used then concat(capacities.charge_id, '/used/', coalesce(cumulated.model, ''))
            else concat(capacities.charge_id, '/idle')
        end as charge_id,
        cumulated.model as model,
        cumulated.model_key as model_key,
        case when cumulated.is_used then capacities.of_service_tier end as service_tier,
        -- used capacity is usage that this line bills; what is idle was bought all the same
        case when cumulated.is_used then 'usage' else capacities.charge_category end as charge_category,
        case
            when cumulated.is_used then capacities.line_item
            else concat(capacities.line_item, ' (idle)')
        end as line_item,
        cumulated.tokens as quantity,
        'tokens' as quantity_unit,
        {%- for amount in ["billed_cost", "billed_usd"] %}
        {{ exact_share(
            "capacities." ~ amount, "cumulated.weight", "cumulated.weight_upto", "cumulated.weight_total"
        ) }} as {{ amount }}{{ "," if not loop.last }}
        {%- endfor %}
    ),
    capacities.charge_id as divided_charge_id
from cumulated
inner join capacities on cumulated.charge_id = capacities.charge_id
