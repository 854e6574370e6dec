-- One row per thing and period in which it had one name. The first name that was ever seen has always held, so that
-- names do not depend on when their things were first listed. What a gateway logs is dated by its requests, and is
-- better than its listing, which says only what things are called now.
with logged as (
    {% for kind, id, name in [
        ("gateway_key", "gateway_key_id", "gateway_key_name"),
        ("gateway_team", "gateway_team", "gateway_team_name"),
    ] -%}
    select
        '{{ kind }}' as kind,
        source as gateway,
        {{ id }} as id,
        usage_date as from_date,
        -- the last of the day
        max_by({{ name }}, (started_hour, {{ name }})) as name
    from {{ source("lake", "request_rollups") }}
    where {{ id }} is not null and {{ name }} is not null
    group by all
    {% if not loop.last %}union all{% endif %}
    {% endfor %}
),

listed as (
    -- several sources may list one account; on a day on which they disagree, one of them is as good as the other
    select
        kind,
        provider,
        account_id,
        gateway,
        id,
        seen_date as from_date,
        max(name) as name
    from {{ ref("stg_names") }} as names
    where not exists (
        select 1
        from logged
        where logged.kind = names.kind and logged.gateway = names.gateway and logged.id = names.id
    )
    group by all
),

dated as (
    select * from listed
    union all by name
    select * from logged
),

changed as (
    select *
    from dated
    qualify name is distinct from lag(name) over (partition by kind, provider, account_id, gateway, id order by from_date)
)

select
    kind,
    provider,
    account_id,
    gateway,
    id,
    name,
    case when row_number() over thing = 1 then date '0001-01-01' else from_date end as valid_from,
    lead(from_date, 1, date '9999-12-31') over thing as valid_to
from changed
window thing as (partition by kind, provider, account_id, gateway, id order by from_date)
