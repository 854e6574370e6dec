-- The reconciled days of a month add up to the month.
{{ config(meta={"dagster": {"ref": {"name": "reconciliation_monthly"}}}) }}
{% set month = ["month", "provider", "account_id"] %}
{% set days %}
(select *, date_trunc('month', usage_date)::date as month from {{ ref("reconciliation_daily") }})
{% endset %}
{{ not_conserved(
    reconciled_measures(days, month), reconciled_measures(ref("reconciliation_monthly"), month),
    month + ["measure"], "usd", "usd"
) }}
