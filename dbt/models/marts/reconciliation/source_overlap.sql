-- One row per UTC day, source, source that speaks before it, provider identity and verdict: what became of the requests
-- of a source where another one logged requests of the same provider, account, project and key.
{% set who = ["provider", "account_id", "provider_project_id", "api_key_id"] %}
with units as (
    select distinct
        rollups.usage_date,
        rollups.source,
        speakers.rank,
        {%- for name in who %}
        rollups.{{ name }}{{ "," if not loop.last }}
        {%- endfor %}
    from {{ source("lake", "request_rollups") }} as rollups
    inner join {{ source("lake", "speakers") }} as speakers on rollups.source = speakers.source
    where rollups.is_billable and rollups.meter = 'requests'
),

-- What one source does not know agrees with any.
beside as (
    select
        units.usage_date,
        units.source,
        {% for name in who %}units.{{ name }}, {% endfor %}
        arg_min(others.source, others.rank) as other_source,
        bool_or(declared.source is not null) as is_declared
    from units
    inner join units as others
        on units.usage_date = others.usage_date
        and units.provider = others.provider
        and others.rank < units.rank
        {%- for name in who[1:] %}
        and (units.{{ name }} is null or others.{{ name }} is null or units.{{ name }} = others.{{ name }})
        {%- endfor %}
    left join {{ source("lake", "declared_overlaps") }} as declared
        on units.source = declared.source and others.source = declared.other_source
    group by all
),

set_aside as (
    select distinct usage_date, source, {{ who | join(", ") }}
    from {{ source("lake", "set_aside") }}
),

counted as (
    select
        usage_date,
        gateway as source,
        {% for name in who %}{{ name }}, {% endfor %}
        sum(quantity) as requests,
        sum(reported_cost) as reported_cost
    from {{ ref("stg_requests") }}
    where meter = 'requests'
    group by all
),

kept as (
    select
        counted.*,
        beside.other_source as spoken_by,
        beside.is_declared or set_aside.source is not null as is_told_apart
    from counted
    inner join beside
        on counted.usage_date = beside.usage_date
        and counted.source = beside.source
        {%- for name in who %}
        and counted.{{ name }} is not distinct from beside.{{ name }}
        {%- endfor %}
    left join set_aside
        on counted.usage_date = set_aside.usage_date
        and counted.source = set_aside.source
        {%- for name in who %}
        and counted.{{ name }} is not distinct from set_aside.{{ name }}
        {%- endfor %}
)

select
    usage_date,
    source,
    spoken_by,
    {% for name in who %}{{ name }}, {% endfor %}
    concat('set aside: ', reason) as verdict,
    requests::bigint as requests,
    reported_cost::decimal(38, 12) as reported_cost_usd,
    null as what_to_write
from {{ source("lake", "set_aside") }}
union all
select
    usage_date,
    source,
    spoken_by,
    {% for name in who %}{{ name }}, {% endfor %}
    case
        when is_told_apart then 'kept: only this source saw them'
        else 'kept: nobody declared that the sources log the same calls'
    end as verdict,
    requests::bigint as requests,
    reported_cost::decimal(38, 12) as reported_cost_usd,
    case when not is_told_apart then concat('overlaps: [[', spoken_by, ', ', source, ']]') end as what_to_write
from kept
