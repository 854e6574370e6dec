-- One row per cell: what the provider says was used, by whom, before it is split by context length.
-- Usage cells; and each line that bills usage by an identity of which no usage is reported that day: who is printed on
-- the bill pays for it, and nobody else. Lines beside those that bill usage (credits, taxes, refunds, remainders) are
-- spread over cells; where none agrees with their identity, they are cells, too.
with identities as (
    select distinct usage_date, provider, account_id, provider_project_id, api_key_id
    from {{ ref("stg_usage") }}
),

usage_days as (select distinct usage_date, provider, account_id from identities),

lines as (
    select
        charges.*,
        {{ named_key("charges.api_key_id") }} as named_key_id,
        meters.unit as meter_unit,
        {{ stands_for_usage("charges") }} as is_standing_for_usage,
        usage_days.usage_date is not null as is_beside_usage
    from {{ ref("stg_charges") }} as charges
    left join usage_days
        on charges.usage_date = usage_days.usage_date
        and charges.provider = usage_days.provider
        and charges.account_id is not distinct from usage_days.account_id
    left join {{ source("lake", "meters") }} as meters on charges.meter = meters.meter
),

lines_without_usage as (
    select *
    from lines
    where not exists (
        select 1
        from identities
        where {{ agrees_in_identity("lines", "identities") }}
    )
),

cell_lines as (
    select *
    from lines_without_usage as lines
    where
        is_standing_for_usage
        or not exists (
            select 1
            from lines_without_usage as others
            where others.is_standing_for_usage and {{ agrees_in_identity("lines", "others") }}
        )
)

select
    cell_id,
    'usage' as evidence,
    null as is_beside_usage,
    null as charge_id,
    'usage' as charge_category,
    usage_date,
    provider,
    account_id,
    provider_project_id,
    provider_project_name,
    api_key_id,
    api_key_name,
    principal_id,
    principal_name,
    operation,
    model,
    model_key,
    meter,
    unit,
    service_tier,
    context_tier,
    region,
    quantity,
    null::decimal(38, 12) as billed_usd
from {{ ref("stg_usage") }}

union all

select
    charges.charge_id as cell_id,
    'charge' as evidence,
    case when charges.is_beside_usage then 'yes' end as is_beside_usage,
    charges.charge_id,
    charges.charge_category,
    charges.usage_date,
    charges.provider,
    charges.account_id,
    charges.provider_project_id,
    charges.provider_project_name,
    charges.api_key_id,
    charges.api_key_name,
    charges.principal_id,
    charges.principal_name,
    null as operation,
    charges.model,
    charges.model_key,
    charges.meter,
    charges.meter_unit as unit,
    charges.service_tier,
    charges.context_tier,
    charges.region,
    -- a quantity weighs only in the unit of its meter
    case when charges.quantity > 0 and charges.quantity_unit = charges.meter_unit then charges.quantity end as quantity,
    charges.billed_usd
from cell_lines as charges
