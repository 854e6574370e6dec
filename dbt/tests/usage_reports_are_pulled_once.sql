-- A project or key is one account's: as much usage of it on one day from two sources is one report, pulled under two
-- entries of sources.yaml.
{{ config(meta={"dagster": {"ref": {"name": "stg_usage"}}}) }}
-- depends_on: {{ ref("stg_usage") }}
with cells as (
    select
        source,
        usage_date,
        provider,
        account_id,
        nullif(provider_project_id, 'default') as issued_project_id,
        {{ named_key("api_key_id") }} as issued_key_id,
        model,
        service_tier,
        context_tier,
        region,
        operation,
        meter,
        sum(quantity) as quantity
    from {{ source("lake", "usage_rollups") }}
    group by all
),

twice as (
    select
        * exclude (source, account_id),
        list_sort(list_distinct(list(source))) as sources,
        list_sort(list_distinct(list(account_id))) as accounts
    from cells
    where coalesce(issued_project_id, issued_key_id) is not null and quantity > 0
    group by all
    having count(distinct source) > 1
)

select
    provider,
    array_to_string(sources, ', ') as sources,
    array_to_string(accounts, ', ') as accounts,
    count(*) as cells_pulled_twice,
    sum(quantity) filter (where meters.unit = 'tokens') as tokens,
    min(usage_date) as first_date,
    max(usage_date) as last_date,
    any_value(coalesce(issued_project_id, issued_key_id)) as for_example,
    'remove all but one of these sources from sources.yaml, and what the lake has of them' as remedy
from twice
left join {{ source("lake", "meters") }} as meters on twice.meter = meters.meter
group by provider, sources, accounts
order by cells_pulled_twice desc, sources
