-- One row per UTC month, active tag key and value. For each tag key every dollar is in exactly one row.
select
    date_trunc('month', allocations.usage_date)::date as month,
    active_tags.tag_key,
    coalesce(allocations.tags[active_tags.tag_key], '(untagged)') as tag_value,
    sum(allocations.cost_usd)::decimal(38, 12) as cost_usd,
    sum(allocations.list_cost_usd)::decimal(38, 12) as list_cost_usd
from {{ ref("fct_cost_allocations") }} as allocations
cross join {{ source("lake", "active_tags") }} as active_tags
group by all
