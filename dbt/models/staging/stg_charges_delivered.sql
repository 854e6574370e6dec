-- One row per charge line that a source delivered: of a provider's bill, or declared.
select
    concat(charges.source, '/', charges.usage_date, '/', charges.record_id) as charge_id,
    charges.source,
    charges.usage_date,

    charges.provider,
    charges.account_id,
    charges.provider_project_id,
    coalesce(projects.name, charges.provider_project_name) as provider_project_name,
    charges.api_key_id,
    coalesce(api_keys.name, charges.api_key_name) as api_key_name,
    charges.principal_id,
    coalesce(principals.name, charges.principal_name) as principal_name,

    charges.model,
    case when charges.model is not null then coalesce(models.model_key, lower(charges.model)) end as model_key,
    charges.meter,
    charges.service_tier,
    charges.context_tier,
    charges.region,
    -- of the resource, as the bill says them; only those that this deployment reports by
    {{ tags_among("nullif(charges.tags, map {})", "active_tags.keys") }} as tags,

    charges.charge_category,
    charges.line_item,
    charges.quantity,
    charges.quantity_unit,

    charges.currency,
    charges.billed_cost,
    charges.list_cost,
    -- null where nobody wrote a rate for the day: charges_without_an_fx_rate keeps that from everything below
    case when charges.currency = 'USD' then 1 else fx_rates.usd_per_unit end::decimal(20, 12) as usd_per_unit,
    {{ in_usd("charges.billed_cost", "charges.currency", "fx_rates.usd_per_unit") }} as billed_usd,
    {{ in_usd("charges.list_cost", "charges.currency", "fx_rates.usd_per_unit") }} as list_usd
from {{ source("lake", "charges") }} as charges
cross join (select coalesce(list(tag_key), []) as keys from {{ source("lake", "active_tags") }}) as active_tags
left join {{ ref("fx_rates") }} as fx_rates
    on charges.currency = fx_rates.currency and {{ holds_on("fx_rates", "charges.usage_date") }}
left join {{ source("lake", "models") }} as models
    on charges.provider = models.provider and charges.model = models.model
{{ join_provider_name("charges", "project", "provider_project_id") }}
{{ join_provider_name("charges", "api_key", "api_key_id") }}
{{ join_provider_name("charges", "principal", "principal_id") }}
