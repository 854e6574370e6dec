-- One row per UTC month and identity that no rule of the ownership map owns, dearest first.
with unowned as (
    select
        date_trunc('month', usage_date)::date as month,
        provider,
        account_id,
        provider_project_id,
        provider_project_name,
        api_key_id,
        api_key_name,
        principal_id,
        gateway,
        gateway_key_id,
        gateway_key_name,
        gateway_team,
        gateway_user,
        sum(cost_usd)::decimal(38, 12) as cost_usd,
        (sum(quantity) filter (where meter = 'requests'))::bigint as requests,
        min(usage_date)::date as first_date,
        max(usage_date)::date as last_date
    from {{ ref("fct_cost_allocations") }}
    where team = 'unallocated'
    group by all
)

select
    *,
    row_number() over (
        partition by month
        order by
            cost_usd desc nulls last, provider, account_id, provider_project_id, provider_project_name, api_key_id,
            api_key_name, principal_id, gateway, gateway_key_id, gateway_key_name, gateway_team, gateway_user
    )::bigint as rank
from unowned
