-- One row per purchase of prepaid credits and UTC day on which usage that was billed beside it draws it down: a credit to
-- whoever bought it, first in first out. What is left of the purchase is what it has not given back.
{{ config(materialized="table") }}
{% set pot = "of_provider, of_account, currency" %}
with purchases as (
    select
        lines.*,
        prepaid.of_provider,
        prepaid.of_account,
        sum(lines.billed_cost) over (
            partition by prepaid.of_provider, prepaid.of_account, lines.currency
            order by lines.usage_date, lines.charge_id
            rows unbounded preceding
        ) as bought_upto
    from {{ ref("stg_charges_delivered") }} as lines
    inner join {{ source("lake", "declared_prepaid") }} as prepaid
        on {{ is_purchase_of("lines", "prepaid") }}
),

pots as (
    select {{ pot }}, min(usage_date) as first_date from purchases group by all
),

-- Credits of an account are drawn before those of its provider as a whole.
drawing as (
    select pots.of_provider, pots.of_account, pots.currency, lines.usage_date, lines.billed_cost
    from {{ ref("stg_charges_delivered") }} as lines
    inner join pots
        on lines.provider = pots.of_provider
        and lines.currency = pots.currency
        and lines.usage_date >= pots.first_date
        and {{ is_of_account("pots", "lines.account_id") }}
    where {{ bills_usage("lines.charge_category") }}
    qualify row_number() over (partition by lines.charge_id order by pots.of_account nulls last) = 1
),

daily as (
    select {{ pot }}, usage_date, sum(billed_cost) as billed, sum(bought) as bought
    from (
        select {{ pot }}, usage_date, billed_cost, 0 as bought from drawing
        union all
        select {{ pot }}, usage_date, 0 as billed_cost, billed_cost as bought from purchases
    ) as movements
    group by all
),

running as (
    select
        {{ pot }},
        usage_date,
        sum(billed) over upto as billed_upto,
        sum(bought) over upto as bought_upto
    from daily
    window upto as (partition by {{ pot }} order by usage_date rows unbounded preceding)
),

-- What no credits were left for stays paid otherwise, even when more are bought later: the highest that usage has ever
-- been above purchases. The rest was drawn.
drawn as (
    select
        {{ pot }},
        usage_date,
        greatest(
            billed_upto - greatest(
                max(billed_upto - bought_upto) over (
                    partition by {{ pot }} order by usage_date rows unbounded preceding
                ),
                0
            ),
            0
        ) as drawn_upto
    from running
),

of_purchases as (
    select
        purchases.charge_id,
        drawn.usage_date as drawn_date,
        least(
            greatest(drawn.drawn_upto - (purchases.bought_upto - purchases.billed_cost), 0), purchases.billed_cost
        )::decimal(38, 12) as drawn_upto
    from purchases
    inner join drawn
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
