-- One row per UTC day, account, model, meter and tier of usage that nothing but declared prepaid credits can pay: no line
-- has billed usage of the account since they were bought, and no declared capacity is for it. At our prices, in USD and in
-- the currency of the credits, at the rate of their first purchase.
{{ config(materialized="table") }}
{% set identity = ["usage_date", "provider", "account_id", "model", "model_key", "meter", "context_tier"] %}
with pots as (
    select
        of_provider,
        of_account,
        currency,
        min(usage_date) as first_date,
        min_by(charge_id, (usage_date, charge_id)) as first_charge_id,
        min_by(usd_per_unit, (usage_date, charge_id)) as usd_per_unit
    from {{ ref("stg_purchases_of_prepaid") }}
    group by all
),

rated as (
    select
        usage.{{ identity | join(", usage.") }},
        -- said, lest the line pays for another tier, which a capacity may have paid
        coalesce(usage.service_tier, 'standard') as service_tier,
        sum({{ rated("usage.quantity", "prices.usd_per_unit") }}) as rated_cost
    from {{ ref("stg_usage") }} as usage
    inner join {{ ref("int_prices") }} as prices
        on {{ on_price("usage", "prices", "null", band_of("usage.context_tier")) }}
    where usage.provider in (select pots.of_provider from pots)
    group by all
    having rated_cost > 0
)

select
    rated.*,
    pots.* exclude (first_date, usd_per_unit),
    {{ in_proportion(
        "rated.rated_cost", "1000000000000::hugeint", money_weight("pots.usd_per_unit")
    ) }} as cost_in_currency
from rated
inner join pots
    on rated.provider = pots.of_provider
    and rated.usage_date >= pots.first_date
    and {{ is_of_account("pots", "rated.account_id") }}
where
    not exists (
        select 1
        from {{ ref("stg_charges_delivered") }} as lines
        where
            {{ bills_usage("lines.charge_category") }}
            and lines.provider = rated.provider
            and lines.account_id is not distinct from rated.account_id
            and lines.usage_date >= pots.first_date
    )
    and not exists (
        select 1
        from {{ ref("stg_charges_of_capacities") }} as lines
        where
            {{ bills_usage("lines.charge_category") }}
            and lines.usage_date = rated.usage_date
            and lines.provider = rated.provider
            and lines.account_id is not distinct from rated.account_id
            and lines.model is not distinct from rated.model
            and coalesce(lines.service_tier = rated.service_tier, true)
    )
-- credits of an account are drawn before those of its provider as a whole
qualify
    row_number() over (
        partition by rated.{{ identity | join(", rated.") }}, rated.service_tier
        order by pots.of_account nulls last, pots.currency
    ) = 1
