-- One row per UTC day, gateway identity, tags, provider identity, model, tier, context and meter, at contract prices.
with rated as (
    select
        requests.*,
        prices.context_tier,
        {{ rated_exactly("requests.quantity", "prices.usd_per_unit") }} as rated_cost,
        {{ rated_exactly("requests.quantity", "prices.list_usd_per_unit") }} as list_cost
    from {{ ref("stg_requests") }} as requests
    inner join {{ ref("int_prices") }} as prices
        on {{ on_price("requests", "prices", "requests.started_hour", "requests.context_above_tokens") }}
),

daily as (
    select
        usage_date,
        provider,
        account_id,
        provider_project_id,
        api_key_id,
        gateway,
        gateway_key_id,
        gateway_key_name,
        gateway_team,
        gateway_team_name,
        gateway_user,
        tags,
        operation,
        model,
        model_key,
        service_tier,
        context_tier,
        meter,
        unit,
        sum(quantity)::decimal(38, 12) as quantity,
        -- null as soon as a part has no price: a sum that leaves something out is a guess
        case when count(*) = count(rated_cost) then sum(rated_cost) end::decimal(38, 12) as rated_cost,
        case when count(*) = count(list_cost) then sum(list_cost) end::decimal(38, 12) as list_cost,
        sum(reported_cost) as reported_cost
    from rated
    group by all
)

select
    md5(
        {{ key_of(
            ["usage_date", "provider", "account_id", "provider_project_id", "api_key_id", "gateway", "gateway_key_id",
             "gateway_key_name", "gateway_team", "gateway_team_name", "gateway_user", "tags", "operation", "model",
             "service_tier", "context_tier"]
        ) }}
    ) as request_group_id,
    md5(
        {{ key_of(
            ["usage_date", "provider", "account_id", "provider_project_id", "api_key_id", "model", "service_tier",
             "context_tier", "meter"]
        ) }}
    ) as coordinate_id,
    daily.*
from daily
