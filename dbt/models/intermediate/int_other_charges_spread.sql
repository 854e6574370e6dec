-- One row per credit, tax, fee or purchase and cell that it falls on, with its exact part.
-- It follows the money that the lines which bill usage put on each cell; where there is none yet, the rated cost.
with paid as (
    select cell_id, sum(amount) as amount
    from {{ ref("int_usage_charges_spread") }}
    group by cell_id
    having sum(amount) > 0
),

weighted as (
    select
        matched.charge_id,
        matched.cell_id,
        matched.match_level,
        charges.billed_usd,
        case
            when count(paid.cell_id) over charge > 0 then coalesce({{ money_weight("paid.amount") }}, 0)
            else {{ cell_weight("cells") }}
        end as weight
    from {{ ref("int_charges_matched") }} as matched
    inner join {{ ref("stg_charges") }} as charges on matched.charge_id = charges.charge_id
    inner join {{ ref("int_cells_rated") }} as cells on matched.cell_id = cells.cell_id
    left join paid on matched.cell_id = paid.cell_id
    where not ({{ bills_usage("charges.charge_category") }})
    window charge as (partition by matched.charge_id)
)

{{ spread_by_weight("weighted") }}
