-- What is booked in a closed month is what was signed, to the last digit.
{{ config(meta={"dagster": {"ref": {"name": "month_closings"}}}) }}
with booked as (
    select
        date_trunc('month', usage_date)::date as month,
        count(*) as allocations,
        coalesce(sum(cost_usd), 0) as cost_usd
    from {{ ref("fct_cost_allocations") }}
    where is_closed
    group by all
)

select
    coalesce(closings.month, booked.month) as month,
    closings.cost_usd as signed_usd,
    booked.cost_usd as booked_usd,
    closings.allocations as signed_allocations,
    booked.allocations as booked_allocations
from (select * from {{ ref("month_closings") }} where is_closed) as closings
full outer join booked on closings.month = booked.month
where
    coalesce(closings.cost_usd, 0) <> coalesce(booked.cost_usd, 0)
    or coalesce(closings.allocations, 0) <> coalesce(booked.allocations, 0)
