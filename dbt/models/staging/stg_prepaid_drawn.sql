-- One row per pot of prepaid credits (what was bought for whom, in one currency) and UTC day on which it moves: what all its
-- credits together have paid up to then, and what they pay of the day's usage that no line bills.
{{ config(materialized="table") }}
{% set pot = "of_provider, of_account, currency" %}
with purchases as (
    select {{ pot }}, usage_date, billed_cost from {{ ref("stg_purchases_of_prepaid") }}
),

pots as (
    select {{ pot }}, min(usage_date) as first_date from purchases group by all
),

-- Credits of an account are drawn before those of its provider as a whole.
billing as (
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
    select {{ pot }}, usage_date, sum(billed) as billed, sum(unbilled) as unbilled, sum(bought) as bought
    from (
        select {{ pot }}, usage_date, billed_cost as billed, 0 as unbilled, 0 as bought from billing
        union all
        select {{ pot }}, usage_date, 0 as billed, cost_in_currency as unbilled, 0 as bought
        from {{ ref("stg_usage_of_prepaid") }}
        union all
        select {{ pot }}, usage_date, 0 as billed, 0 as unbilled, billed_cost as bought from purchases
    ) as movements
    group by all
),

running as (
    select
        {{ pot }},
        usage_date,
        billed,
        unbilled,
        sum(billed + unbilled) over upto as used_upto,
        sum(bought) over upto as bought_upto
    from daily
    window upto as (partition by {{ pot }} order by usage_date rows unbounded preceding)
),

-- What no credits were left for stays paid otherwise, even when more are bought later: the highest that usage has ever
-- been above purchases. The rest was drawn.
drawn as (
    select
        *,
        greatest(
            used_upto - greatest(
                max(used_upto - bought_upto) over (
                    partition by {{ pot }} order by usage_date rows unbounded preceding
                ),
                0
            ),
            0
        ) as drawn_upto
    from running
)

-- what lines bill is drawn first: of that, it is known that it has to be paid
select
    {{ pot }},
    usage_date,
    drawn_upto,
    unbilled,
    least(
        unbilled,
        greatest(
            drawn_upto
            - lag(drawn_upto, 1, 0) over (partition by {{ pot }} order by usage_date)
            - greatest(billed, 0),
            0
        )
    ) as unbilled_drawn
from drawn
