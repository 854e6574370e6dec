-- Every breakdown has the month's total, and for each tag key every dollar is in exactly one row.
{{ config(meta={"dagster": {"ref": {"name": "chargeback_by_tag"}}}) }}
with totals as (
    select date_trunc('month', usage_date)::date as month, sum(cost_usd) as cost_usd
    from {{ ref("fct_cost_allocations") }}
    group by all
),

breakdowns as (
    select 'chargeback_daily' as breakdown, date_trunc('month', usage_date)::date as month, sum(cost_usd) as cost_usd
    from {{ ref("chargeback_daily") }}
    group by all
    {% for owner in ["team", "project", "environment"] %}
    union all
    select 'chargeback_by_{{ owner }}' as breakdown, month, sum(cost_usd) as cost_usd
    from {{ ref("chargeback_by_" ~ owner) }}
    group by all
    {% endfor %}
    union all
    select 'statements' as breakdown, month, sum(cost_usd) as cost_usd
    from {{ ref("statements") }}
    group by all
    union all
    select concat('chargeback_by_tag: ', tag_key) as breakdown, month, sum(cost_usd) as cost_usd
    from {{ ref("chargeback_by_tag") }}
    group by month, tag_key
)

select breakdowns.*, totals.cost_usd as month_total
from breakdowns
left join totals on breakdowns.month = totals.month
where coalesce(breakdowns.cost_usd, 0) <> coalesce(totals.cost_usd, 0)
