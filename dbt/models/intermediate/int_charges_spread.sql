-- One row per cell and what pays for it: a charge line's exact part, or the cell's own rated cost where no bill is in.
-- The cell's quantity stands once: on the lines that bill its meter, else on a row of its own that costs nothing.
with weighted as (
    select
        matched.charge_id,
        matched.cell_id,
        matched.match_level,
        charges.billed_cost,
        charges.charge_category = 'usage' and charges.meter = cells.meter as is_billing_meter,
        case
            when count(*) over charge = count(cells.rated_cost) over charge and sum(cells.rated_cost) over charge > 0
                then {{ money_weight("cells.rated_cost") }}
            when min(cells.unit) over charge = max(cells.unit) over charge
                then {{ quantity_weight("cells.quantity") }}
            else {{ money_weight("coalesce(cells.rated_cost, 0)") }}
        end as weight
    from {{ ref("int_charges_matched") }} as matched
    inner join {{ ref("stg_charges") }} as charges on matched.charge_id = charges.charge_id
    inner join {{ ref("int_cells_rated") }} as cells on matched.cell_id = cells.cell_id
    window charge as (partition by matched.charge_id)
),

never_zero as (
    select * replace (case when sum(weight) over (partition by charge_id) = 0 then 1 else weight end as weight)
    from weighted
),

cumulated as (
    select
        *,
        sum(weight) over (partition by charge_id order by cell_id rows unbounded preceding) as weight_upto,
        sum(weight) over (partition by charge_id) as weight_total
    from never_zero
),

billed as (
    select
        cell_id,
        charge_id,
        match_level as charge_match,
        'billed' as cost_basis,
        {{ exact_share("billed_cost", "weight", "weight_upto", "weight_total") }} as amount,
        is_billing_meter
    from cumulated
    union all
    select
        cell_id,
        charge_id,
        'charge alone' as charge_match,
        'billed' as cost_basis,
        billed_cost as amount,
        true as is_billing_meter
    from {{ ref("int_cells_rated") }}
    where evidence = 'charge'
),

billed_days as (
    select distinct usage_date, provider, account_id
    from {{ ref("stg_charges") }}
    where charge_category = 'usage'
),

-- Every usage cell once more: its rated cost while its bill is not in, nothing once it is.
own as (
    select
        cells.cell_id,
        null as charge_id,
        null as charge_match,
        case
            when billed_days.usage_date is not null then 'billed'
            when cells.meter = 'requests' or cells.rated_cost is not null then 'rated_usage'
            else 'unpriced'
        end as cost_basis,
        case
            when billed_days.usage_date is not null or cells.meter = 'requests' then 0
            else cells.rated_cost
        end::decimal(38, 12) as amount,
        billed_days.usage_date is null as is_billing_meter
    from {{ ref("int_cells_rated") }} as cells
    left join billed_days
        on cells.usage_date = billed_days.usage_date
        and cells.provider = billed_days.provider
        and cells.account_id = billed_days.account_id
    where cells.evidence = 'usage'
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
        case when payments.is_billing_meter then {{ money_weight("abs(coalesce(payments.amount, 0))") }} else 0 end
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
