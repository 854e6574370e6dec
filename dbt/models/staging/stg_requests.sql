-- One row per UTC hour, provider and gateway identity, tags, model, tier, context band and meter of the gateway logs.
-- Only requests that can be on a bill, and of calls that several sources have logged those of the one that speaks; a
-- meter that the gateway knows to be zero is a row with quantity 0. Quantities have three decimals here: beside others, a
-- sum of them is cast to decimal(38, 12) first, or a union cuts those.
with requests as (
    select *
    from {{ source("lake", "request_rollups") }} as rollups
    where not exists (
        select 1
        from {{ source("lake", "set_aside") }} as set_aside
        where set_aside.source = rollups.source and set_aside.usage_date = rollups.usage_date
    )
    union all by name
    select * from {{ source("lake", "spoken_rollups") }}
)

select
    requests.usage_date,
    extract(hour from requests.started_hour) as started_hour,
    requests.source as gateway,

    requests.provider,
    requests.account_id,
    requests.provider_project_id,
    requests.api_key_id,

    requests.gateway_key_id,
    coalesce(requests.gateway_key_name, gateway_keys.name) as gateway_key_name,
    requests.gateway_team,
    coalesce(requests.gateway_team_name, gateway_teams.name) as gateway_team_name,
    requests.gateway_user,
    requests.tags,

    requests.operation,
    requests.model,
    case when requests.model is not null then coalesce(models.model_key, lower(requests.model)) end as model_key,
    requests.service_tier,
    coalesce(requests.context_above_tokens, 0) as context_above_tokens,
    requests.meter,
    coalesce(meters.unit, 'units') as unit,
    requests.quantity,
    requests.reported_cost
from requests
left join {{ source("lake", "models") }} as models
    on requests.provider = models.provider and requests.model = models.model
left join {{ source("lake", "meters") }} as meters
    on requests.meter = meters.meter
{{ join_gateway_name("requests", "gateway_key", "gateway_key_id", "gateway_key_name") }}
{{ join_gateway_name("requests", "gateway_team", "gateway_team", "gateway_team_name") }}
where requests.is_billable
