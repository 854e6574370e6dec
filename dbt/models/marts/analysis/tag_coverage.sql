-- One row per UTC day, team, gateway, gateway key and active tag key. For each tag key every dollar is in exactly one row;
-- what no gateway saw, and so only the bill could tag, has a row of its own with no gateway.
select
    allocations.usage_date,
    allocations.team,
    allocations.gateway,
    coalesce(allocations.gateway_key_id, allocations.gateway_key_name) as gateway_key_id,
    max(allocations.gateway_key_name) as gateway_key_name,
    active_tags.tag_key,
    sum(allocations.cost_usd)::decimal(38, 12) as cost_usd,
    -- 0 where nothing is tagged, but null where nothing has a price
    sum(
        case
            when allocations.tags[active_tags.tag_key] is not null or allocations.cost_usd is null
                then allocations.cost_usd
            else 0
        end
    )::decimal(38, 12) as tagged_cost_usd
from {{ ref("int_allocations") }} as allocations
cross join {{ source("lake", "active_tags") }} as active_tags
group by all
