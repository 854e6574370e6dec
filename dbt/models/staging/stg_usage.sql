-- One row per UTC day, provider identity, model, tier and meter of the providers' usage reports: a usage cell.
with daily as (
    select
        usage.usage_date,
        usage.provider,
        usage.account_id,
        usage.provider_project_id,
        usage.api_key_id,
        usage.principal_id,
        usage.model,
        usage.service_tier,
        usage.context_tier,
        usage.region,
        usage.operation,
        usage.meter,
        max(usage.provider_project_name) as provider_project_name,
        max(usage.api_key_name) as api_key_name,
        max(usage.principal_name) as principal_name,
        sum(usage.quantity)::decimal(38, 12) as quantity
    from {{ source("lake", "usage_rollups") }} as usage
    group by all
)

select
    md5(
        {{ key_of(
            ["daily.usage_date", "daily.provider", "daily.account_id", "daily.provider_project_id", "daily.api_key_id",
             "daily.principal_id", "daily.model", "daily.service_tier", "daily.context_tier", "daily.region",
             "daily.operation", "daily.meter"]
        ) }}
    ) as cell_id,
    daily.* replace (
        coalesce(projects.name, daily.provider_project_name) as provider_project_name,
        coalesce(api_keys.name, daily.api_key_name) as api_key_name,
        coalesce(principals.name, daily.principal_name) as principal_name
    ),
    case when daily.model is not null then coalesce(models.model_key, lower(daily.model)) end as model_key,
    coalesce(meters.unit, 'units') as unit
from daily
left join {{ source("lake", "models") }} as models
    on daily.provider = models.provider and daily.model = models.model
left join {{ source("lake", "meters") }} as meters
    on daily.meter = meters.meter
{{ join_provider_name("daily", "project", "provider_project_id") }}
{{ join_provider_name("daily", "api_key", "api_key_id") }}
{{ join_provider_name("daily", "principal", "principal_id") }}
where daily.quantity <> 0
