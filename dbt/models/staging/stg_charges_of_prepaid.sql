-- One row per purchase of prepaid credits and UTC day on which usage draws it down: a credit to whoever bought it, first in
-- first out. What is left of the purchase is what it has not given back. And, where no line bills that usage, one row per
-- day, account, model, meter and tier of it, which bills it: what is bought once is then paid once, by whoever uses it.
{{ config(materialized="table") }}
with purchases as (
    select
        *,
        sum(billed_cost) over (
            partition by of_provider, of_account, currency order by usage_date, charge_id rows unbounded preceding
        ) as bought_upto
    from {{ ref("stg_purchases_of_prepaid") }}
),

of_purchases as (
    select
        purchases.charge_id,
        drawn.usage_date as drawn_date,
        least(
            greatest(drawn.drawn_upto - (purchases.bought_upto - purchases.billed_cost), 0), purchases.billed_cost
        )::decimal(38, 12) as drawn_upto
    from purchases
    inner join {{ ref("stg_prepaid_drawn") }} as drawn
        on purchases.of_provider = drawn.of_provider
        and purchases.of_account is not distinct from drawn.of_account
        and purchases.currency = drawn.currency
        and purchases.usage_date <= drawn.usage_date
),

steps as (
    select
        *,
        lag(drawn_upto, 1, 0) over (partition by charge_id order by drawn_date) as drawn_before
    from of_purchases
),

weighed as (
    select
        used.*,
        drawn.unbilled_drawn = drawn.unbilled as is_drawn_whole,
        drawn.unbilled_drawn::decimal(38, 12) as unbilled_drawn,
        {{ money_weight("used.cost_in_currency") }} as weight,
        sum({{ money_weight("used.cost_in_currency") }}) over (
            day_of_pot
            order by used.account_id, used.model, used.meter, used.service_tier, used.context_tier
            rows unbounded preceding
        ) as weight_upto,
        sum({{ money_weight("used.cost_in_currency") }}) over (day_of_pot) as weight_total
    from {{ ref("stg_usage_of_prepaid") }} as used
    inner join {{ ref("stg_prepaid_drawn") }} as drawn
        on used.of_provider = drawn.of_provider
        and used.of_account is not distinct from drawn.of_account
        and used.currency = drawn.currency
        and used.usage_date = drawn.usage_date
    where drawn.unbilled_drawn > 0
    window day_of_pot as (partition by used.first_charge_id, used.usage_date)
),

used as (
    select
        *,
        {{ exact_share("unbilled_drawn", "weight", "weight_upto", "weight_total") }} as drawn_cost
    from weighed
)

select
    purchases.* exclude (of_provider, of_account, bought_upto) replace (
        concat(purchases.charge_id, '/drawn/', steps.drawn_date) as charge_id,
        steps.drawn_date as usage_date,
        'credit' as charge_category,
        concat(purchases.line_item, ' (drawdown)') as line_item,
        null as quantity,
        null as quantity_unit,
        (steps.drawn_before - steps.drawn_upto)::decimal(38, 12) as billed_cost,
        null as list_cost,
        -- at the rate of the purchase, so that what is drawn down whole is zero in USD, too
        (
            {{ in_usd("steps.drawn_before", "purchases.currency", "purchases.usd_per_unit") }}
            - {{ in_usd("steps.drawn_upto", "purchases.currency", "purchases.usd_per_unit") }}
        )::decimal(38, 12) as billed_usd,
        null as list_usd
    )
from steps
inner join purchases on steps.charge_id = purchases.charge_id
where steps.drawn_upto <> steps.drawn_before

union all

select
    purchases.* exclude (of_provider, of_account, bought_upto) replace (
        concat(
            used.first_charge_id, '/used/', used.usage_date, '/',
            md5({{ key_of([
                "used.provider", "used.account_id", "used.model", "used.meter", "used.service_tier", "used.context_tier"
            ]) }})
        ) as charge_id,
        used.usage_date as usage_date,
        used.provider as provider,
        used.account_id as account_id,
        null as provider_project_id,
        null as provider_project_name,
        null as api_key_id,
        null as api_key_name,
        null as principal_id,
        null as principal_name,
        used.model as model,
        used.model_key as model_key,
        used.meter as meter,
        used.service_tier as service_tier,
        used.context_tier as context_tier,
        null as region,
        null as tags,
        'usage' as charge_category,
        concat('usage drawn from ', purchases.line_item) as line_item,
        null as quantity,
        null as quantity_unit,
        used.drawn_cost as billed_cost,
        null as list_cost,
        case
            when used.is_drawn_whole then used.rated_cost
            else {{ in_usd("used.drawn_cost", "used.currency", "purchases.usd_per_unit") }}
        end::decimal(38, 12) as billed_usd,
        null as list_usd
    )
from used
inner join purchases on used.first_charge_id = purchases.charge_id
where used.drawn_cost <> 0
