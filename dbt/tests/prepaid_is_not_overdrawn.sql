-- No purchase of prepaid credits gives back more than it cost, and none on a day before it was made.
{{ config(meta={"dagster": {"ref": {"name": "stg_charges_of_prepaid"}}}) }}
with drawn as (
    select split_part(charge_id, '/drawn/', 1) as charge_id, min(usage_date) as first_date, -sum(billed_cost) as drawn
    from {{ ref("stg_charges_of_prepaid") }}
    where charge_category = 'credit'
    group by all
)

select
    purchases.charge_id,
    purchases.usage_date,
    purchases.billed_cost,
    drawn.first_date,
    drawn.drawn
from drawn
left join {{ ref("stg_charges_delivered") }} as purchases on drawn.charge_id = purchases.charge_id
where
    purchases.charge_id is null
    or drawn.drawn < 0
    or drawn.drawn > purchases.billed_cost
    or drawn.first_date < purchases.usage_date
