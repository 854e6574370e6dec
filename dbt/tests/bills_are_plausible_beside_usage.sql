-- Where the lines of a bill carry no quantity, an account's day is compared as a whole: what they cost, and the usage that
-- they are spread over at the price that is known. Lines whose model or meter no usage agrees with, and usage without a
-- price, say nothing; nor do lines that name neither (a plan), unless that is all the day's bill has.
{{ config(meta={"dagster": {"ref": {"name": "int_charges_matched"}}}) }}
with bill as (
    select
        charges.*,
        charges.quantity > 0 and coalesce(charges.quantity_unit = meters.unit, false) as is_counted,
        coalesce(charges.model_key, charges.meter) is not null as is_itemized,
        bool_or(coalesce(charges.model_key, charges.meter) is not null) over day as is_day_itemized,
        -- of an account's last day the bill may still be coming in
        charges.usage_date = max(charges.usage_date) over account as is_last_day
    from {{ ref("stg_charges") }} as charges
    left join {{ source("lake", "meters") }} as meters on charges.meter = meters.meter
    where {{ bills_usage("charges.charge_category") }}
    window
        day as (partition by charges.usage_date, charges.provider, charges.account_id),
        account as (partition by charges.provider, charges.account_id)
),

matched as (
    select
        bill.*,
        cells.cell_id,
        cells.rated_cost,
        bool_and(cells.rated_cost is not null) over (partition by bill.charge_id) as is_priced
    from bill
    inner join {{ ref("int_charges_matched") }} as matched
        on bill.charge_id = matched.charge_id
        and matched.match_level in (
            'exact', 'catalogue model', 'without region', 'without context tier', 'without service tier'
        )
    inner join {{ ref("int_cells_rated") }} as cells on matched.cell_id = cells.cell_id
    where
        bill.billed_usd > 0
        and not coalesce(bill.is_counted, false)
        and bill.is_itemized = bill.is_day_itemized
        and cells.evidence = 'usage'
),

lines as (
    select distinct usage_date, provider, account_id, source, is_last_day, charge_id, billed_usd
    from matched
    where is_priced
),

billed as (
    select usage_date, provider, account_id, source, is_last_day, count(*) as lines, sum(billed_usd) as billed_usd
    from lines
    group by all
),

rated as (
    select usage_date, provider, account_id, sum(rated_cost) as rated_usd
    from (
        select distinct usage_date, provider, account_id, cell_id, rated_cost
        from matched
        where is_priced
    ) as cells
    group by all
)

select
    billed.usage_date,
    billed.provider,
    billed.account_id,
    billed.lines,
    billed.billed_usd,
    rated.rated_usd as usage_at_known_price,
    {{ times_apart("billed.billed_usd", "rated.rated_usd") }} as problem,
    concat(
        'if the bill is right, write its prices into dbt/seeds/contract_prices.csv; else the source ', billed.source,
        ' misreads the unit of its amounts, or of the quantities in its usage report'
    ) as remedy
from billed
inner join rated
    on billed.usage_date = rated.usage_date
    and billed.provider = rated.provider
    and billed.account_id is not distinct from rated.account_id
inner join {{ source("lake", "thresholds") }} as thresholds
    on {{ is_implausible("billed.billed_usd", "rated.rated_usd", "thresholds.price_factor") }}
where
    rated.rated_usd > 0
    and not (billed.is_last_day and billed.billed_usd < rated.rated_usd)
order by greatest(billed.billed_usd, rated.rated_usd) desc, billed.usage_date
