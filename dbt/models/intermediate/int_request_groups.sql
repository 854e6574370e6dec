-- One row per group of requests that share day, identity, tags, model and tiers: who asked, whatever the meter.
select
    request_group_id,
    any_value(usage_date) as usage_date,
    any_value(provider) as provider,
    any_value(provider_project_id) as provider_project_id,
    any_value(api_key_id) as api_key_id,
    any_value(gateway) as gateway,
    any_value(gateway_key_id) as gateway_key_id,
    any_value(gateway_key_name) as gateway_key_name,
    any_value(gateway_team) as gateway_team,
    any_value(gateway_team_name) as gateway_team_name,
    any_value(gateway_user) as gateway_user,
    any_value(tags) as tags,
    any_value(operation) as operation
from {{ ref("int_requests_rated") }}
group by request_group_id
