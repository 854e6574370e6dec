{# Cost of each `owner` by UTC month, its share of the month and its change from the month before. #}
{% macro chargeback_by_month(owner) %}
with monthly as (
    select
        date_trunc('month', usage_date)::date as month,
        {{ owner }},
        sum(cost_usd)::decimal(38, 12) as cost_usd,
        sum(list_cost_usd)::decimal(38, 12) as list_cost_usd,
        coalesce(sum(cost_usd) filter (where cost_basis = 'billed'), 0)::decimal(38, 12) as billed_cost_usd,
        coalesce(sum(cost_usd) filter (where corrects_date is not null), 0)::decimal(38, 12) as corrections_usd
    from {{ ref("fct_cost_allocations") }}
    group by all
),

-- Every owner in every month, so that one who stopped spending still shows the change to nothing.
months as (select distinct month from monthly),

complete as (
    select
        months.month,
        owners.{{ owner }},
        case when monthly.month is null then 0 else monthly.cost_usd end as cost_usd,
        monthly.list_cost_usd,
        coalesce(monthly.billed_cost_usd, 0) as billed_cost_usd,
        coalesce(monthly.corrections_usd, 0) as corrections_usd,
        before.cost_usd as cost_before_usd,
        first_month.month is not null as has_month_before
    from months
    cross join (select distinct {{ owner }} from monthly) as owners
    left join monthly on months.month = monthly.month and owners.{{ owner }} = monthly.{{ owner }}
    left join monthly as before
        on months.month = before.month + interval 1 month and owners.{{ owner }} = before.{{ owner }}
    left join months as first_month on months.month = first_month.month + interval 1 month
    where monthly.month is not null or before.month is not null
)

select
    month::date as month,
    {{ owner }},
    cost_usd::decimal(38, 12) as cost_usd,
    list_cost_usd,
    billed_cost_usd::decimal(38, 12) as billed_cost_usd,
    corrections_usd::decimal(38, 12) as corrections_usd,
    case
        when sum(cost_usd) over (partition by month) <> 0
            then round((cost_usd / sum(cost_usd) over (partition by month))::decimal(38, 12), 6)
    end::decimal(38, 6) as month_share,
    case when has_month_before then cost_usd - coalesce(cost_before_usd, 0) end::decimal(38, 12)
        as change_usd
from complete
{% endmacro %}
