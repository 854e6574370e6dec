-- One row per gateway key or API key that was first seen in the last `new_after_days` days of data.
-- What the data begin with is not new.
with seen as (
    select
        'gateway key' as kind,
        gateway as issuer,
        coalesce(gateway_key_id, gateway_key_name) as key_id,
        gateway_key_name as key_name,
        usage_date,
        team,
        cost_usd
    from {{ ref("int_allocations") }}
    union all
    select
        'API key' as kind,
        provider as issuer,
        coalesce({{ named_key("api_key_id") }}, api_key_name) as key_id,
        api_key_name as key_name,
        usage_date,
        team,
        cost_usd
    from {{ ref("int_allocations") }}
),

keys as (
    select
        kind,
        issuer,
        key_id,
        max(key_name) as key_name,
        min(usage_date) as first_date,
        max(usage_date) as last_date,
        sum(cost_usd) as cost_usd
    from seen
    where key_id is not null
    group by all
),

payers as (
    select
        *,
        row_number() over (partition by kind, issuer, key_id order by cost_usd desc nulls last, team) as rank
    from (select kind, issuer, key_id, team, sum(cost_usd) as cost_usd from seen group by all) as teams
)

select
    keys.kind,
    keys.issuer,
    keys.key_id,
    keys.key_name,
    payers.team,
    keys.first_date::date as first_date,
    keys.last_date::date as last_date,
    keys.cost_usd::decimal(38, 12) as cost_usd
from keys
inner join payers
    on keys.kind = payers.kind
    and keys.issuer is not distinct from payers.issuer
    and keys.key_id = payers.key_id
    and payers.rank = 1
inner join {{ ref("int_days_of_data") }} as days on keys.first_date = days.usage_date
inner join {{ source("lake", "thresholds") }} as thresholds on days.days_after < thresholds.new_after_days
where keys.first_date > (select min(usage_date) from {{ ref("int_days_of_data") }})
