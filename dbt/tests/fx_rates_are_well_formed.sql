-- A rate that says nothing, holds on no day or for ever, or competes with another changes bills by accident.
with judged as (
    select
        fx_rates.*,
        case
            when currency is null then 'no currency'
            when not regexp_full_match(currency, '[A-Z]{3}') then 'the currency is not an ISO 4217 code in upper case'
            when currency = 'USD' then 'amounts are converted to USD; a rate for it means nothing'
            when valid_from is null then 'no valid_from'
            when valid_to is null then 'no valid_to: a rate does not hold for ever'
            when valid_to <= valid_from then 'valid_to is not after valid_from'
            when usd_per_unit is null then 'no usd_per_unit'
            when usd_per_unit <= 0 then 'usd_per_unit is not positive'
            when valid_to > lead(valid_from) over (partition by currency order by valid_from, valid_to)
                then 'the next row of the currency begins before valid_to'
        end as problem
    from {{ ref("fx_rates") }} as fx_rates
)

select * from judged where problem is not null
