-- What a day's bill charges for a million of a meter is near the price that is known, or the source misreads a unit:
-- cents taken for dollars are 100 times too dear, thousands taken for units 1000 times. A line that costs nothing (free
-- tokens) implies no price, and less than a cent says too little.
{{ config(meta={"dagster": {"ref": {"name": "int_prices"}}}) }}
with priced_lines as (
    select
        charges.usage_date,
        charges.provider,
        charges.account_id,
        charges.source,
        charges.model_key,
        charges.meter,
        charges.quantity,
        charges.quantity_unit,
        charges.billed_usd,
        {{ rated("charges.quantity", "prices.usd_per_unit") }} as rated_usd
    from {{ ref("stg_charges") }} as charges
    inner join {{ source("lake", "meters") }} as meters
        on charges.meter = meters.meter and charges.quantity_unit = meters.unit
    inner join {{ ref("int_prices") }} as prices
        on {{ on_price(
            "charges", "prices", "null",
            "(case when charges.context_tier = 'long' then " ~ any_long_context() ~ " else 0 end)"
        ) }}
    where
        {{ bills_usage("charges.charge_category") }}
        and charges.quantity > 0
        and charges.billed_usd > 0
        and prices.usd_per_unit > 0
),

daily as (
    select
        usage_date,
        provider,
        account_id,
        source,
        model_key,
        meter,
        sum(quantity) as quantity,
        quantity_unit,
        sum(billed_usd) as billed_usd,
        sum(rated_usd) as rated_usd
    from priced_lines
    group by all
)

select
    daily.usage_date,
    daily.provider,
    daily.account_id,
    daily.model_key,
    daily.meter,
    daily.quantity,
    daily.quantity_unit,
    daily.billed_usd,
    daily.rated_usd as usd_at_known_price,
    {{ times_apart("daily.billed_usd", "daily.rated_usd") }} as problem,
    concat(
        'if the bill is right, write its price into dbt/seeds/contract_prices.csv: ', daily.provider, ',',
        daily.account_id, ',', daily.model_key, ',', daily.meter, ',,', daily.usage_date,
        ',,<USD per million>,,<where agreed>; else the source ', daily.source,
        ' misreads the unit of its amounts or quantities'
    ) as remedy
from daily
inner join {{ source("lake", "thresholds") }} as thresholds
    on {{ is_implausible("daily.billed_usd", "daily.rated_usd", "thresholds.price_factor") }}
order by greatest(daily.billed_usd, daily.rated_usd) desc, daily.usage_date, daily.model_key, daily.meter
