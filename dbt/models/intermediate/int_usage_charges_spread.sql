-- One row per line that bills usage and cell that it pays for, with its exact part, in proportion to rated cost.
with weighted as (
    select
        matched.charge_id,
        matched.cell_id,
        matched.match_level,
        charges.billed_usd,
        {{ cell_weight("cells") }} as weight
    from {{ ref("int_charges_matched") }} as matched
    inner join {{ ref("stg_charges") }} as charges on matched.charge_id = charges.charge_id
    inner join {{ ref("int_cells_rated") }} as cells on matched.cell_id = cells.cell_id
    where {{ bills_usage("charges.charge_category") }}
    window charge as (partition by matched.charge_id)
)

{{ spread_by_weight("weighted") }}

union all

select
    cell_id,
    charge_id,
    'charge alone' as charge_match,
    billed_usd as amount
from {{ ref("int_cells_rated") }}
where evidence = 'charge'
