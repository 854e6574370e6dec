-- One row per UTC month, owner, cost centre, account, cost basis and month that is corrected: what Finance books. Closed
-- months as they were signed, with the cost centres of then.
-- A team that the map no longer has gets back what it was booked where that was last booked.
with signed as (
    select
        team,
        arg_max(cost_center, month) as cost_center
    from {{ source("lake", "closed_statements") }}
    group by team
)

select
    date_trunc('month', allocations.usage_date)::date as month,
    allocations.team,
    case when teams.team is null then signed.cost_center else teams.cost_center end as cost_center,
    allocations.project,
    allocations.environment,
    allocations.provider,
    allocations.account_id,
    allocations.cost_basis,
    date_trunc('month', allocations.corrects_date)::date as corrects_month,
    false as is_closed,
    sum(allocations.cost_usd)::decimal(38, 12) as cost_usd
from {{ ref("fct_cost_allocations") }} as allocations
left join {{ ref("dim_teams") }} as teams on allocations.team = teams.team
left join signed on allocations.team = signed.team
where not allocations.is_closed
group by all
union all by name
select * replace (true as is_closed) from {{ source("lake", "closed_statements") }}
