-- One row per UTC day, provider and account: the bill, both ratings of the same consumption, and what was attributed.
{% set account = "usage_date, provider, account_id" %}
with billed as (
    select {{ account }}, sum(billed_cost) as billed_usd, bool_or({{ bills_usage("charge_category") }}) as is_usage_billed
    from {{ ref("stg_charges") }}
    group by all
),

usage as (
    select {{ account }}, sum(rated_cost) as rated_usage_usd
    from {{ ref("int_cells_rated") }}
    where evidence = 'usage'
    group by all
),

requests as (
    select {{ account }}, sum(rated_cost) as rated_requests_usd, sum(reported_cost) as reported_usd
    from {{ ref("int_requests_rated") }}
    group by all
),

attributed as (
    select
        {{ account }},
        sum(cost_usd) as attributed_usd,
        sum(cost_usd) filter (where cost_basis = 'billed') as attributed_billed_usd,
        sum(cost_usd) filter (where cost_basis = 'rated_usage') as attributed_rated_usd
    from {{ ref("fct_cost_allocations") }}
    group by all
),

accounts as (
    select {{ account }} from billed
    union
    select {{ account }} from usage
    union
    select {{ account }} from requests
    union
    select {{ account }} from attributed
)

select
    accounts.usage_date::date as usage_date,
    accounts.provider,
    accounts.account_id,
    billed.billed_usd::decimal(38, 12) as billed_usd,
    usage.rated_usage_usd::decimal(38, 12) as rated_usage_usd,
    requests.rated_requests_usd::decimal(38, 12) as rated_requests_usd,
    requests.reported_usd::decimal(38, 12) as reported_usd,
    coalesce(attributed.attributed_usd, 0)::decimal(38, 12) as attributed_usd,
    coalesce(billed.is_usage_billed, false) as is_usage_billed,
    -- what must come out: the bill to the last digit, and beside it the rated usage of days not billed yet
    (
        coalesce(attributed.attributed_billed_usd, 0) - coalesce(billed.billed_usd, 0)
        + coalesce(attributed.attributed_rated_usd, 0)
        - case when coalesce(billed.is_usage_billed, false) then 0 else coalesce(usage.rated_usage_usd, 0) end
    )::decimal(38, 12) as difference_usd
from accounts
{% for part in ["billed", "usage", "requests", "attributed"] %}
left join {{ part }}
    on accounts.usage_date = {{ part }}.usage_date
    and accounts.provider = {{ part }}.provider
    and accounts.account_id is not distinct from {{ part }}.account_id
{% endfor %}
