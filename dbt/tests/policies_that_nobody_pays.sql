-- What is proportional to nothing, because nobody pays anything else over the same account, provider or everything that
-- month, is nobody's: a warning, with the policy, which may say `otherwise`.
{{ config(severity="warn", meta={"dagster": {"ref": {"name": "int_allocations_by_policy"}}}) }}
select
    rule,
    rule_place,
    provider,
    account_id,
    date_trunc('month', usage_date)::date as month,
    sum(cost_usd) as cost_usd
from {{ ref("int_allocations_by_policy") }}
where owner_evidence = 'nobody pays anything'
group by all
order by abs(sum(cost_usd)) desc
