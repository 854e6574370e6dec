-- One row per charge line and cell that it pays for, with what the line is beside the cell, and what it says in our prices.
-- role: `apart` does not bill usage; `without usage` bills what the usage report does not have; `without report` bills
-- what nothing counts; `counted` says how much of the cell's meter it bills; `agreeing` says nothing that the cell
-- contradicts; `coarser` says another meter or tier; `unnamed` says neither model nor meter.
with pairs as (
    select
        spread.cell_id,
        spread.charge_id,
        spread.amount,

        charges.charge_category,
        charges.line_item,
        charges.quantity as line_quantity,
        charges.model_key is null and charges.meter is null as is_unnamed,
        cells.evidence,
        cells.charge_id = spread.charge_id as is_own_cell,
        cells.is_beside_usage,
        cells.quantity,
        cells.rated_cost,
        prices.usd_per_unit,

        -- a refund, and a tool that our prices or the usage report do not have, is no price of usage
        not {{ bills_usage("charges.charge_category") }}
        or (
            charges.charge_category <> 'adjustment'
            and (charges.billed_usd < 0 or coalesce(charges.quantity, 0) < 0)
        )
        or (
            charges.meter is not null
            and coalesce(meters.unit, 'units') in ('units', 'searches')
            and (cells.meter is distinct from charges.meter or cells.rated_cost is null)
        ) as is_apart,
        coalesce(charges.model_key = cells.model_key, charges.model_key is null) as is_same_model,
        coalesce(charges.meter = cells.meter, charges.meter is null) as is_same_meter,
        coalesce(charges.service_tier = cells.service_tier, true)
        and coalesce(charges.context_tier = cells.context_tier, true) as is_on_same_terms,
        charges.meter = cells.meter and charges.quantity_unit = meters.unit as is_quantity_of_meter
    from {{ ref("int_charges_spread") }} as spread
    inner join {{ ref("stg_charges") }} as charges on spread.charge_id = charges.charge_id
    inner join {{ ref("int_cells_rated") }} as cells on spread.cell_id = cells.cell_id
    left join {{ source("lake", "meters") }} as meters on charges.meter = meters.meter
    left join {{ ref("int_prices") }} as prices
        on {{ on_price("charges", "prices", "null", band_of("charges.context_tier")) }}
),

-- A line that counts in one of its cells only has no part that can be told.
lines as (
    select
        charge_id,
        bool_and(
            coalesce(
                is_quantity_of_meter and line_quantity >= 0 and quantity > 0 and rated_cost is not null
                and (is_on_same_terms or usd_per_unit is not null),
                false
            )
        ) as is_counting
    from pairs
    group by charge_id
),

roles as (
    select
        pairs.*,
        case
            when is_apart then 'apart'
            when evidence = 'charge' and not is_own_cell then 'unnamed'
            when evidence = 'charge' and is_beside_usage is not null then 'without usage'
            when evidence = 'charge' and charge_category = 'adjustment' then 'unnamed'
            when evidence = 'charge' and rated_cost is not null then 'counted'
            when evidence = 'charge' and quantity is not null then 'agreeing'
            when evidence = 'charge' then 'without report'
            when not is_same_model then 'without usage'
            when is_unnamed then 'unnamed'
            when lines.is_counting then 'counted'
            when is_same_meter and is_on_same_terms then 'agreeing'
            else 'coarser'
        end as role
    from pairs
    inner join lines on pairs.charge_id = lines.charge_id
),

-- A line's quantity falls on its cells as their own quantities do.
weighed as (
    select
        *,
        {{ quantity_weight("line_quantity") }} as line_weight,
        {{ quantity_weight("quantity") }} as cell_weight,
        sum({{ quantity_weight("quantity") }}) over (line order by cell_id rows unbounded preceding) as weight_upto,
        sum({{ quantity_weight("quantity") }}) over (line) as weight_total
    from roles
    window line as (partition by charge_id, role)
),

parts as (
    select
        *,
        case
            -- bill and usage report mostly agree
            when role = 'counted' and line_weight = weight_total then cell_weight
            when role = 'counted'
                then
                    {{ portion("line_weight", "weight_upto", "weight_total") }}
                    - {{ portion("line_weight", "(weight_upto - cell_weight)", "weight_total") }}
        end as billed_weight
    from weighed
)

select
    cell_id,
    charge_id,
    charge_category,
    line_item,
    role,
    amount,
    billed_weight,
    case
        when role <> 'counted' then null
        when is_on_same_terms then {{ in_proportion("rated_cost", "billed_weight", "cell_weight") }}
        else {{ rated("(billed_weight::decimal(38, 0) * 0.001::decimal(4, 3))", "usd_per_unit") }}
    end as line_rated_cost
from parts
