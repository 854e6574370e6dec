-- One row per UTC day, provider and account: the bill, both ratings of the same consumption, why they differ, and what
-- was attributed.
{% set account = "usage_date, provider, account_id" %}
with billed as (
    select {{ account }}, sum(billed_usd) as billed_usd, bool_or({{ bills_usage("charge_category") }}) as is_billing_usage
    from {{ ref("stg_charges") }}
    group by all
),

usage as (
    select
        {{ account }},
        sum(rated_usage_usd) as rated_usage_usd,
        sum(unbilled_usd) as unbilled_usd,
        bool_and(is_billed or not is_counted) as is_billed,
        bool_or(is_reported) as is_reported
    from {{ ref("int_cells_reconciled") }}
    group by all
),

requests as (
    select {{ account }}, sum(rated_cost) as rated_requests_usd, sum(reported_cost) as reported_usd
    from {{ ref("int_requests_rated") }}
    group by all
),

causes as (
    select
        {{ account }},
        {{ sums_of_causes() }}
    from {{ ref("int_causes_found") }}
    group by {{ account }}
),

attributed as (
    select
        {{ account }},
        sum(cost_usd) as attributed_usd,
        sum(cost_usd) filter (where cost_basis = 'billed') as attributed_billed_usd,
        sum(cost_usd) filter (where cost_basis = 'rated_usage') as attributed_rated_usd
    from {{ ref("int_allocations") }}
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
    coalesce(billed.is_billing_usage, false) and coalesce(usage.is_billed, true) as is_usage_billed,

    billed.billed_usd::decimal(38, 12) as billed_usd,
    usage.rated_usage_usd::decimal(38, 12) as rated_usage_usd,
    requests.rated_requests_usd::decimal(38, 12) as rated_requests_usd,
    requests.reported_usd::decimal(38, 12) as reported_usd,

    {{ delta_of("billed.billed_usd", "usage.rated_usage_usd", "usage.is_reported") }} as billed_minus_usage_usd,
    {{ delta_of("usage.rated_usage_usd", "requests.rated_requests_usd", "usage.is_reported") }} as usage_minus_requests_usd,
    {%- for cause in causes_of_deltas() %}
    case when usage.is_reported then coalesce(causes.{{ cause.column }}, 0) end::decimal(38, 12) as {{ cause.column }},
    {%- endfor %}

    coalesce(attributed.attributed_usd, 0)::decimal(38, 12) as attributed_usd,
    -- what must come out: the bill to the last digit, and beside it the rated usage that is not billed yet
    (
        coalesce(attributed.attributed_billed_usd, 0) - coalesce(billed.billed_usd, 0)
        + coalesce(attributed.attributed_rated_usd, 0)
        - coalesce(usage.unbilled_usd, 0)
    )::decimal(38, 12) as difference_usd
from accounts
{% for part in ["billed", "usage", "requests", "causes", "attributed"] %}
left join {{ part }}
    on accounts.usage_date = {{ part }}.usage_date
    and accounts.provider = {{ part }}.provider
    and accounts.account_id is not distinct from {{ part }}.account_id
{% endfor %}
