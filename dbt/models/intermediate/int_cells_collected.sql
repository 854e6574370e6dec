-- One row per cell: what the provider says was used, by whom, before it is split by context length.
-- Usage cells; and where an account has no usage report for a day, each line that bills usage is a cell of its own (any
-- line, where none does). The other lines of that day are spread over these, as they are over usage.
with usage_days as (select distinct usage_date, provider, account_id from {{ ref("stg_usage") }}),

lines as (
    select
        charges.*,
        meters.unit as meter_unit,
        charges.charge_category = 'usage' and charges.billed_cost >= 0 and coalesce(charges.quantity, 0) >= 0
            as is_billing_usage
    from {{ ref("stg_charges") }} as charges
    left join usage_days
        on charges.usage_date = usage_days.usage_date
        and charges.provider = usage_days.provider
        and charges.account_id is not distinct from usage_days.account_id
    left join {{ source("lake", "meters") }} as meters on charges.meter = meters.meter
    where usage_days.usage_date is null
),

cell_lines as (
    select *
    from lines
    qualify is_billing_usage or not bool_or(is_billing_usage) over (partition by usage_date, provider, account_id)
)

select
    cell_id,
    'usage' as evidence,
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
    null::decimal(38, 12) as billed_cost
from {{ ref("stg_usage") }}

union all

select
    charges.charge_id as cell_id,
    'charge' as evidence,
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
    charges.billed_cost
from cell_lines as charges
