-- A month of which too many tokens are neither billed nor priced is not a cheap month. What is unpriced but below the
-- threshold stays a row that says so. Tokens of requests that their gateway knows the cost of are not unpriced, and those
-- that name no model cannot be priced by a line.
{{ config(meta={"dagster": {"ref": {"name": "int_fragments_identified"}}}) }}
with tokens as (
    select
        date_trunc('month', usage_date)::date as month,
        usage_date,
        provider,
        model,
        meter,
        quantity,
        cost_basis = 'unpriced'
        and model is not null
        and not coalesce(
            cell_id is null
            and request_group_id in (
                select request_group_id from {{ ref("int_fragments_identified") }} where cost_basis = 'reported'
            ),
            false
        ) as is_unpriced
    from {{ ref("int_fragments_identified") }}
    where quantity_unit = 'tokens'
),

months as (
    select month, sum(quantity) as tokens, coalesce(sum(quantity) filter (where is_unpriced), 0) as unpriced_tokens
    from tokens
    group by month
),

unpriced as (
    select
        month,
        provider,
        model,
        meter,
        sum(quantity) as tokens,
        min(usage_date) as first_date,
        max(usage_date) as last_date
    from tokens
    where is_unpriced
    group by all
)

select
    unpriced.month,
    unpriced.provider,
    unpriced.model,
    unpriced.meter,
    unpriced.tokens,
    months.tokens as tokens_of_the_month,
    months.unpriced_tokens as unpriced_tokens_of_the_month,
    unpriced.first_date,
    unpriced.last_date,
    concat(
        'write into dbt/seeds/contract_prices.csv: ', unpriced.provider, ',,',
        coalesce(models.model_key, lower(unpriced.model)), ',', unpriced.meter, ',,', unpriced.first_date,
        ',,<USD per million>,,<where agreed>'
    ) as remedy
from unpriced
inner join months on unpriced.month = months.month
inner join {{ source("lake", "thresholds") }} as thresholds
    on months.unpriced_tokens > months.tokens * thresholds.unpriced_share
left join {{ source("lake", "models") }} as models
    on unpriced.provider = models.provider and unpriced.model = models.model
order by unpriced.tokens desc, unpriced.month, unpriced.model, unpriced.meter
