-- An amount in a currency that has no rate for its day is not dollars, and nothing may add it up.
{{ config(meta={"dagster": {"ref": {"name": "stg_charges"}}}) }}
with missing as (
    select
        *,
        -- what is written for these days must end before the next rate begins
        (
            select min(fx_rates.valid_from)
            from {{ ref("fx_rates") }} as fx_rates
            where fx_rates.currency = charges.currency and fx_rates.valid_from > charges.usage_date
        ) as next_valid_from
    from {{ ref("stg_charges") }} as charges
    where usd_per_unit is null
)

select
    currency,
    count(distinct usage_date) as days,
    min(usage_date) as first_date,
    max(usage_date) as last_date,
    array_to_string(list_sort(list_distinct(list(source))), ', ') as sources,
    count(*) as lines,
    sum(billed_cost) as billed_cost,
    concat(
        'write into dbt/seeds/fx_rates.csv: ', currency, ',', min(usage_date), ',', max(usage_date) + 1,
        ',<USD for one ', currency, '>,<whose rate>'
    ) as remedy
from missing
group by currency, next_valid_from
order by currency, first_date
