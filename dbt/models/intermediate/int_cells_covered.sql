-- One row per cell and part of it: each group of requests that went through it, and what no gateway has seen.
-- Requests that add up to more than the cell take all of it in proportion; the excess is never cost.
-- Weights are rated cost where everything has a price, else quantity; `quantity_*` weights divide the cell's quantity.
-- None is negative.
with went_through as (
    select
        cells.cell_id,
        requests.request_group_id,
        matched.match_level,
        {{ portion(money_weight("requests.rated_cost"), "matched.share_weight", "matched.share_total") }} as money_weight,
        {{ portion(quantity_weight("requests.quantity"), "matched.share_weight", "matched.share_total") }} as quantity_weight
    from {{ ref("int_requests_matched") }} as matched
    inner join {{ ref("int_cells_rated") }} as cells
        on matched.cell_id = cells.whole_cell_id
        and (
            cells.context_tier is null
            or cells.context_tier = matched.context_tier
            or (not cells.is_context_told and matched.match_level in ('without context tier', 'without service tier'))
        )
    inner join {{ ref("int_requests_rated") }} as requests
        on matched.coordinate_id = requests.coordinate_id
    where requests.quantity > 0
),

seen as (
    select
        cell_id,
        count(*) = count(money_weight) as is_all_priced,
        sum(money_weight) as money_weight,
        sum(quantity_weight) as quantity_weight
    from went_through
    group by all
),

-- A cell weighs what it was rated, or what it cost where a line of the bill is all there is; or what its requests do, where
-- that is more.
bases as (
    select
        cells.cell_id,
        case
            when cells.quantity is null then true
            else coalesce(cells.rated_cost > 0 and coalesce(seen.is_all_priced, true), false)
        end as is_by_money,
        coalesce({{ money_weight("cells.rated_cost") }}, {{ money_weight("abs(cells.billed_usd)") }}, 0) as money_weight,
        coalesce({{ quantity_weight("cells.quantity") }}, 0) as quantity_weight,
        coalesce(seen.money_weight, 0) as seen_money_weight,
        coalesce(seen.quantity_weight, 0) as seen_quantity_weight
    from {{ ref("int_cells_rated") }} as cells
    left join seen on cells.cell_id = seen.cell_id
),

totals as (
    select
        *,
        case
            when is_by_money then greatest(money_weight, seen_money_weight)
            else greatest(quantity_weight, seen_quantity_weight)
        end as weight_total,
        greatest(quantity_weight, seen_quantity_weight) as quantity_weight_total
    from bases
),

-- A line that names no meter meets the same requests once for each of theirs: one part each. A cell of which nothing
-- has weight stays whole, as unseen.
parts as (
    select
        went_through.cell_id,
        went_through.request_group_id,
        min(went_through.match_level) as match_level,
        sum(
            case
                when totals.is_by_money then coalesce(went_through.money_weight, 0)
                else went_through.quantity_weight
            end
        ) as weight,
        sum(went_through.quantity_weight) as quantity_weight
    from went_through
    inner join totals on went_through.cell_id = totals.cell_id
    group by went_through.cell_id, went_through.request_group_id
    union all
    select
        cell_id,
        null as request_group_id,
        null as match_level,
        case
            when weight_total = 0 then 1
            when is_by_money then weight_total - seen_money_weight
            else weight_total - seen_quantity_weight
        end as weight,
        case when quantity_weight_total = 0 then 1 else quantity_weight_total - seen_quantity_weight end
            as quantity_weight
    from totals
)

select
    parts.cell_id,
    parts.request_group_id,
    parts.match_level,
    parts.weight,
    sum(parts.weight) over upto as weight_upto,
    greatest(totals.weight_total, 1) as weight_total,
    parts.quantity_weight,
    sum(parts.quantity_weight) over upto as quantity_weight_upto,
    greatest(totals.quantity_weight_total, 1) as quantity_weight_total
from parts
inner join totals on parts.cell_id = totals.cell_id
-- an empty part is left out
where parts.weight > 0 or parts.quantity_weight > 0
window upto as (
    partition by parts.cell_id order by parts.request_group_id nulls last rows unbounded preceding
)
