-- One row per scope that some proportional policy asks for (an account, a provider, everything), UTC month and owner that
-- pays anything of it: what it pays besides the proportional lines themselves. Credits that outweigh what an owner pays do not weigh.
{% set owner = "team, project, environment, service" %}
with paid as (
    select usage_date, provider, account_id, {{ owner }}, cost_usd
    from {{ ref("int_allocations_by_identity") }}
    union all by name
    select
        usage_date,
        provider,
        account_id,
        team,
        'unspecified' as project,
        'unspecified' as environment,
        'unspecified' as service,
        cost_usd
    from {{ ref("int_charges_by_policy") }}
    where policy = 'central'
),

asked_for as (
    select distinct proportional_over
    from {{ ref("int_charges_by_policy") }}
    where policy = 'proportional'
),

scoped as (
    {%- for over in ["account", "provider", "everything"] %}
    select
        asked_for.proportional_over,
        {{ scope_key("'" ~ over ~ "'") }} as scope_key,
        date_trunc('month', usage_date)::date as month,
        {{ owner }},
        sum(cost_usd) as amount
    from paid
    inner join asked_for on asked_for.proportional_over = '{{ over }}'
    group by all
    having sum(cost_usd) > 0
    {{ "union all" if not loop.last }}
    {%- endfor %}
)

select
    *,
    {{ money_weight("amount") }} as weight,
    sum({{ money_weight("amount") }}) over (scope order by {{ owner }} rows unbounded preceding) as weight_upto,
    sum({{ money_weight("amount") }}) over (scope) as weight_total,
    sum(amount) over (scope) as amount_total
from scoped
window scope as (partition by proportional_over, scope_key, month)
