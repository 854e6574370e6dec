-- One row per charge line of a provider's bill.
select
    concat(charges.source, '/', charges.usage_date, '/', charges.record_id) as charge_id,
    charges.usage_date,

    charges.provider,
    charges.account_id,
    charges.provider_project_id,
    charges.provider_project_name,
    charges.api_key_id,
    charges.api_key_name,
    charges.principal_id,
    charges.principal_name,

    charges.model,
    case when charges.model is not null then coalesce(models.model_key, lower(charges.model)) end as model_key,
    charges.meter,
    charges.service_tier,
    charges.context_tier,
    charges.region,

    coalesce(charges.charge_category, 'usage') as charge_category,
    charges.line_item,
    charges.quantity,
    charges.quantity_unit,

    charges.currency,
    charges.billed_cost,
    charges.list_cost
from {{ source("lake", "charges") }} as charges
left join {{ source("lake", "models") }} as models
    on charges.provider = models.provider and charges.model = models.model
