-- Billed and attributed are equal for every provider, account and day.
{{ config(meta={"dagster": {"ref": {"name": "reconciliation_daily"}}}) }}
select * from {{ ref("reconciliation_daily") }} where difference_usd <> 0
