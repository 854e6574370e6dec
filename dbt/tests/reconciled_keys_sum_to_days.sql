-- What is reconciled by key, model and meter adds up to the day's bill, usage, requests and causes.
{{ config(meta={"dagster": {"ref": {"name": "reconciliation_by_key"}}}) }}
{% set day = ["usage_date", "provider", "account_id"] %}
{{ not_conserved(
    reconciled_measures(ref("reconciliation_daily"), day),
    reconciled_measures(ref("reconciliation_by_key"), day),
    day + ["measure"], "usd", "usd"
) }}
