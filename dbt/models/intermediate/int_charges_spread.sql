-- One row per cell and what pays for it: a charge line's exact part, or the cell's own rated cost where no bill is in.
-- The cell's quantity stands once: on the lines that bill its meter, else on a row of its own that costs nothing.
with billed as (
    select
        spread.cell_id,
        spread.charge_id,
        spread.charge_match,
        'billed' as cost_basis,
        spread.amount,
        cells.evidence = 'charge' and cells.charge_id = spread.charge_id
        or {{ bills_usage("charges.charge_category") }} and charges.meter = cells.meter as is_billing_meter
    from (
        select * from {{ ref("int_usage_charges_spread") }}
        union all
        select * from {{ ref("int_other_charges_spread") }}
    ) as spread
    inner join {{ ref("stg_charges") }} as charges on spread.charge_id = charges.charge_id
    inner join {{ ref("int_cells_rated") }} as cells on spread.cell_id = cells.cell_id
),

-- A capacity and prepaid credits bill the usage that they pay for; any other line, all usage of the account's day.
billed_in_advance as (
    select charge_id, true as is_whole from {{ ref("stg_charges_of_capacities") }}
    union all
    select charge_id, false as is_whole from {{ ref("stg_charges_of_prepaid") }}
),

billed_days as (
    select distinct usage_date, provider, account_id
    from {{ ref("stg_charges") }}
    where {{ bills_usage("charge_category") }} and charge_id not in (select charge_id from billed_in_advance)
),

paid_in_advance as (
    select spread.cell_id, sum(spread.amount) as amount, bool_or(lines.is_whole) as is_whole
    from {{ ref("int_usage_charges_spread") }} as spread
    inner join billed_in_advance as lines on spread.charge_id = lines.charge_id
    group by spread.cell_id
),

unbilled as (
    select
        cells.*,
        billed_days.usage_date is not null
        or coalesce(paid.is_whole or cells.rated_cost <= paid.amount, false) as is_billed,
        cells.rated_cost - coalesce(paid.amount, 0) as unbilled_cost
    from {{ ref("int_cells_rated") }} as cells
    left join billed_days
        on cells.usage_date = billed_days.usage_date
        and cells.provider = billed_days.provider
        and cells.account_id is not distinct from billed_days.account_id
    left join paid_in_advance as paid on cells.cell_id = paid.cell_id
    where cells.evidence = 'usage'
),

-- Every usage cell once more: what of its rated cost no bill is in for yet, and nothing once it is.
own as (
    select
        cell_id,
        null as charge_id,
        null as charge_match,
        case
            when is_billed then 'billed'
            when meter = 'requests' or rated_cost is not null then 'rated_usage'
            else 'unpriced'
        end as cost_basis,
        case when is_billed or (meter = 'requests' and rated_cost is null) then 0 else unbilled_cost end::decimal(38, 12)
            as amount,
        not is_billed as is_billing_meter
    from unbilled
),

payments as (
    select * from billed
    union all
    select * from own
),

-- Which payments carry the quantity, in proportion to what they pay; the cell's own row where none does.
carrying as (
    select
        payments.*,
        cells.quantity as cell_quantity,
        case when coalesce(payments.is_billing_meter, false) then {{ money_weight("abs(coalesce(payments.amount, 0))") }} else 0 end
            as carried
    from payments
    inner join {{ ref("int_cells_rated") }} as cells on payments.cell_id = cells.cell_id
),

fallback as (
    select * replace (
        case
            when sum(carried) over (partition by cell_id) > 0 then carried
            when row_number() over (partition by cell_id order by charge_id nulls first) = 1 then 1
            else 0
        end as carried
    )
    from carrying
),

quantified as (
    select
        *,
        sum(carried) over (partition by cell_id order by charge_id nulls first rows unbounded preceding)
            as carried_upto,
        sum(carried) over (partition by cell_id) as carried_total
    from fallback
)

select
    cell_id,
    charge_id,
    charge_match,
    cost_basis,
    amount,
    {{ exact_share(
        "cell_quantity", "carried", "carried_upto", "carried_total", quantity_units("cell_quantity")
    ) }} as quantity
from quantified
where charge_id is not null or cost_basis <> 'billed' or carried > 0
