-- One row per cell, and per request coordinate that met none: what was billed, used and asked for, in USD at our prices.
-- A cell counts as usage where a report has it, or where no report is in that day and the bill itself counts it.
-- Weights are quantities in thousandths.
{% set account = "usage_date, provider, account_id" %}
with paid as (
    select
        cell_id,
        sum(amount) filter (where charge_id is not null) as billed_usd,
        sum(amount) filter (where cost_basis <> 'billed') as unbilled_usd,
        -- a count of requests that has no price has no bill to come
        not bool_or(cost_basis = 'unpriced' or (cost_basis = 'rated_usage' and amount <> 0)) as is_billed
    from {{ ref("int_charges_spread") }}
    group by cell_id
),

asked as (
    select
        cell_id,
        sum(rated_cost) as rated_requests_usd,
        sum(weight) as requests_weight,
        bool_and(is_priced) as is_priced,
        bool_and(is_on_same_terms) as is_on_same_terms
    from {{ ref("int_requests_on_cells") }}
    where cell_id is not null
    group by cell_id
),

counted as (
    select
        *,
        evidence = 'usage'
        or (is_beside_usage is null and quantity is not null and {{ stands_for_usage("cells") }}) as is_counted
    from {{ ref("int_cells_rated") }} as cells
),

compared as (
    select
        cells.cell_id,
        cells.evidence,
        cells.is_counted,
        cells.is_beside_usage is not null as is_beside_usage,

        cells.usage_date,
        cells.provider,
        cells.account_id,
        cells.provider_project_id,
        cells.provider_project_name,
        cells.api_key_id,
        cells.api_key_name,
        cells.model,
        cells.model_key,
        cells.meter,
        {{ meter_family("cells.meter", "cells.unit") }} as family,

        paid.billed_usd,
        paid.unbilled_usd,
        coalesce(paid.is_billed, true) as is_billed,
        case when cells.is_counted then cells.rated_cost end as rated_usage_usd,
        asked.rated_requests_usd,
        case when cells.is_counted then {{ quantity_weight("cells.quantity") }} else 0 end as usage_weight,
        coalesce(asked.requests_weight, 0) as requests_weight,
        cells.rated_cost is not null as is_usage_priced,
        coalesce(asked.is_priced, true) as is_requests_priced,
        coalesce(asked.is_on_same_terms, true) as is_on_same_terms
    from counted as cells
    left join paid on cells.cell_id = paid.cell_id
    left join asked on cells.cell_id = asked.cell_id

    union all

    select
        concat_ws('/', 'requests', coordinate_id, whole_cell_id) as cell_id,
        'requests' as evidence,
        false as is_counted,
        false as is_beside_usage,

        usage_date,
        provider,
        account_id,
        provider_project_id,
        null as provider_project_name,
        api_key_id,
        null as api_key_name,
        model,
        model_key,
        meter,
        {{ meter_family("meter", "unit") }} as family,

        null as billed_usd,
        null as unbilled_usd,
        false as is_billed,
        null as rated_usage_usd,
        rated_cost as rated_requests_usd,
        0 as usage_weight,
        weight as requests_weight,
        false as is_usage_priced,
        is_priced as is_requests_priced,
        is_on_same_terms
    from {{ ref("int_requests_on_cells") }}
    where cell_id is null
),

billed_days as (
    select distinct {{ account }} from {{ ref("stg_charges") }}
),

counted_days as (
    select {{ account }}, bool_or(is_counted) as is_used
    from compared
    group by all
)

select
    compared.*,
    counted_days.is_used,
    billed_days.usage_date is not null or counted_days.is_used as is_reported
from compared
inner join counted_days
    on compared.usage_date = counted_days.usage_date
    and compared.provider = counted_days.provider
    and compared.account_id is not distinct from counted_days.account_id
left join billed_days
    on compared.usage_date = billed_days.usage_date
    and compared.provider = billed_days.provider
    and compared.account_id is not distinct from billed_days.account_id
