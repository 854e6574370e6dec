-- One row per cell, split by context length where that is told, at list and contract prices.
with split as (
    select
        cells.* exclude (context_tier, quantity),
        cells.cell_id as whole_cell_id,
        case when told.cell_id is null then cells.context_tier else 'short' end as context_tier,
        told.cell_id is not null as is_context_told,
        cells.quantity - coalesce(told.long_quantity, 0) as quantity
    from {{ ref("int_cells_collected") }} as cells
    left join {{ ref("int_contexts_told") }} as told on cells.cell_id = told.cell_id
    where told.cell_id is null or cells.quantity > told.long_quantity
    union all
    select
        cells.* exclude (context_tier, quantity),
        cells.cell_id as whole_cell_id,
        'long' as context_tier,
        true as is_context_told,
        told.long_quantity as quantity
    from {{ ref("int_cells_collected") }} as cells
    inner join {{ ref("int_contexts_told") }} as told on cells.cell_id = told.cell_id
    where told.long_quantity > 0
)

select
    split.* exclude (cell_id),
    case
        when split.context_tier is null then split.whole_cell_id
        else concat(split.whole_cell_id, '/', split.context_tier)
    end as cell_id,
    {{ rated("split.quantity", "prices.usd_per_unit") }} as rated_cost,
    prices.list_usd_per_unit,
    prices.price_status
from split
left join {{ ref("int_prices") }} as prices
    on {{ on_price("split", "prices", "null", band_of("split.context_tier")) }}
