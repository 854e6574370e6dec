-- One row per month, provider and account: the days of reconciliation_daily added up.
{% set amounts = ["billed_minus_usage_usd", "usage_minus_requests_usd"]
    + causes_of_deltas() | map(attribute="column") | list + ["attributed_usd", "difference_usd"] %}
select
    date_trunc('month', usage_date)::date as month,
    provider,
    account_id,
    count(*) as days,
    count(*) filter (where not is_usage_billed) as unbilled_days,
    count(*) filter (where billed_minus_usage_usd is null) as unreported_days,

    sum(billed_usd)::decimal(38, 12) as billed_usd,
    sum(rated_usage_usd)::decimal(38, 12) as rated_usage_usd,
    sum(rated_requests_usd)::decimal(38, 12) as rated_requests_usd,
    sum(rated_requests_usd) filter (where billed_minus_usage_usd is null)::decimal(38, 12) as rated_requests_alone_usd,
    sum(reported_usd)::decimal(38, 12) as reported_usd,

    {% for amount in amounts %}
    sum({{ amount }})::decimal(38, 12) as {{ amount }}{{ "," if not loop.last }}
    {% endfor %}
from {{ ref("reconciliation_daily") }}
group by date_trunc('month', usage_date), provider, account_id
