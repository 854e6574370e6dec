-- Whatever was closed when: of each line of the bill, and of each estimate, all months together book what is known now.
{{ config(meta={"dagster": {"ref": {"name": "fct_cost_allocations"}}}) }}
with booked as (
    select {{ booking_of("coalesce(corrects_date, usage_date)") }} as booking, sum(cost_usd) as cost_usd
    from {{ ref("fct_cost_allocations") }}
    group by all
),

known as (
    select {{ booking_of("usage_date") }} as booking, sum(cost_usd) as cost_usd
    from {{ ref("int_allocations") }}
    group by all
)

select
    coalesce(booked.booking, known.booking) as booking,
    booked.cost_usd as booked_usd,
    known.cost_usd as known_usd
from booked
full outer join known on booked.booking = known.booking
where coalesce(booked.cost_usd, 0) <> coalesce(known.cost_usd, 0)
