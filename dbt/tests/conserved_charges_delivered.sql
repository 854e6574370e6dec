-- Beside percentages and drawdowns, which are lines of their own, the bill is what sources delivered and nothing else: a
-- capacity stands as its parts, and not once more as a whole.
{{ config(meta={"dagster": {"ref": {"name": "stg_charges"}}}) }}
{% set standing %}
(
    select *
    from {{ ref("stg_charges") }}
    where charge_id not in (
        select charge_id from {{ ref("stg_charges_of_percentages") }}
        union all
        select charge_id from {{ ref("stg_charges_of_prepaid") }}
    )
)
{% endset %}
{{ not_conserved(
    ref("stg_charges_delivered"), standing, ["source", "usage_date", "provider", "account_id"], "billed_usd", "billed_usd"
) }}
