-- One row per cell, split by context length where requests prove it, at list and contract prices.
-- A usage report that does not say which tokens were long context is told by the requests that went through the cell.
with long_contexts as (
    select
        matched.cell_id,
        sum({{ quantity_weight("matched.quantity") }} * matched.share_weight // matched.share_total)::decimal(38, 0)
        * 0.001::decimal(4, 3) as long_quantity
    from {{ ref("int_requests_matched") }} as matched
    inner join {{ ref("int_cells_collected") }} as cells
        on matched.cell_id = cells.cell_id
    where matched.context_tier = 'long'
        and cells.context_tier is null
        and cells.evidence = 'usage'
        and cells.meter <> 'requests'
    group by all
),

split as (
    select
        cells.* exclude (context_tier, quantity),
        cells.cell_id as whole_cell_id,
        case
            when long_contexts.cell_id is null then cells.context_tier
            else 'short'
        end as context_tier,
        cells.quantity - least(cells.quantity, coalesce(long_contexts.long_quantity, 0)::decimal(38, 12)) as quantity
    from {{ ref("int_cells_collected") }} as cells
    left join long_contexts on cells.cell_id = long_contexts.cell_id
    where long_contexts.cell_id is null or cells.quantity > long_contexts.long_quantity
    union all
    select
        cells.* exclude (context_tier, quantity),
        cells.cell_id as whole_cell_id,
        'long' as context_tier,
        least(cells.quantity, long_contexts.long_quantity::decimal(38, 12)) as quantity
    from {{ ref("int_cells_collected") }} as cells
    inner join long_contexts on cells.cell_id = long_contexts.cell_id
    where long_contexts.long_quantity > 0
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
    on {{ on_price(
        "split", "prices", "null",
        "(case when split.context_tier = 'long' then " ~ any_long_context() ~ " else 0 end)"
    ) }}
