-- One row per charge line, of a provider's bill or declared: the money that everything else divides.
select
    charge_id,
    usage_date::date as usage_date,

    provider,
    account_id,
    provider_project_id,
    provider_project_name,
    api_key_id,
    api_key_name,
    principal_id,
    principal_name,

    model,
    meter,
    service_tier,
    context_tier,
    region,

    charge_category,
    line_item,
    quantity::decimal(38, 12) as quantity,
    quantity_unit,
    currency,
    billed_cost::decimal(38, 12) as billed_cost,
    list_cost::decimal(38, 12) as list_cost,
    usd_per_unit,
    billed_usd,
    list_usd
from {{ ref("stg_charges") }}
