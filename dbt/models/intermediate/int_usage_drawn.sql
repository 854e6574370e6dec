-- One row per UTC day, provider and account of which declared prepaid credits are all the bill there is: its rated usage
-- and how much of that the credits are left for, first in first out, in USD. The rest has no bill yet.
-- Where any line has billed usage since the purchase, lines draw the credits (stg_charges_of_prepaid), and usage that has
-- none is late.
{{ config(materialized="view") }}
with purchases as (
    select
        prepaid.of_provider,
        prepaid.of_account,
        lines.charge_id,
        lines.usage_date,
        lines.line_item,
        lines.billed_usd
    from {{ ref("stg_charges_delivered") }} as lines
    inner join {{ source("lake", "declared_prepaid") }} as prepaid
        on {{ is_purchase_of("lines", "prepaid") }}
),

pots as (
    select of_provider, of_account, min(usage_date) as first_date from purchases group by all
),

unbilled as (
    select usage_date, provider, account_id, sum(rated_usage_usd) as used_usd
    from {{ ref("int_cells_reconciled") }}
    where is_counted and not is_billed
    group by all
    having sum(rated_usage_usd) > 0
),

using_credits as (
    select pots.of_provider, pots.of_account, unbilled.*
    from unbilled
    inner join pots
        on unbilled.provider = pots.of_provider
        and unbilled.usage_date >= pots.first_date
        and {{ is_of_account("pots", "unbilled.account_id") }}
    where not exists (
        select 1
        from {{ ref("stg_charges") }} as lines
        where
            {{ bills_usage("lines.charge_category") }}
            and lines.provider = unbilled.provider
            and lines.account_id is not distinct from unbilled.account_id
            and lines.usage_date >= pots.first_date
    )
    qualify
        row_number() over (
            partition by unbilled.usage_date, unbilled.provider, unbilled.account_id
            order by pots.of_account nulls last
        ) = 1
),

movements as (
    select of_provider, of_account, usage_date, null as account_id, line_item, billed_usd as bought_usd, 0 as used_usd
    from purchases
    union all by name
    -- by the lines of other accounts
    select purchases.of_provider, purchases.of_account, drawn.usage_date, drawn.billed_usd as bought_usd, 0 as used_usd
    from purchases
    inner join {{ ref("stg_charges_of_prepaid") }} as drawn
        on drawn.charge_id = concat(purchases.charge_id, '/drawn/', drawn.usage_date)
    union all by name
    select of_provider, of_account, usage_date, account_id, 0 as bought_usd, used_usd
    from using_credits
),

running as (
    select
        *,
        last_value(line_item ignore nulls) over upto as credits,
        sum(bought_usd) over upto as bought_upto,
        sum(used_usd) over upto as used_upto
    from movements
    window upto as (
        partition by of_provider, of_account
        order by usage_date, used_usd > 0, account_id, line_item
        rows unbounded preceding
    )
),

-- What no credits were left for is not drawn from those that are bought later.
short as (
    select
        *,
        greatest(
            max(used_upto - bought_upto) over (
                partition by of_provider, of_account
                order by usage_date, used_usd > 0, account_id, line_item
                rows unbounded preceding
            ),
            0
        ) as short_upto
    from running
)

select
    usage_date,
    of_provider as provider,
    account_id,
    credits,
    used_usd,
    used_usd - (
        short_upto - lag(short_upto, 1, 0) over (
            partition by of_provider, of_account order by usage_date, used_usd > 0, account_id, line_item
        )
    ) as drawn_usd
from short
qualify used_usd > 0
