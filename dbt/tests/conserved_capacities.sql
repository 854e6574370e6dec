-- The used parts of a capacity's day and its idle part are what the day costs, to the last digit, in its own currency.
{{ config(meta={"dagster": {"ref": {"name": "stg_charges_of_capacities"}}}) }}
{% set delivered %}
(
    select charge_id as divided_charge_id, billed_cost
    from {{ ref("stg_charges_delivered") }}
    where charge_id in (select divided_charge_id from {{ ref("stg_charges_of_capacities") }})
)
{% endset %}
{{ not_conserved(
    delivered, ref("stg_charges_of_capacities"), ["divided_charge_id"], "billed_cost", "billed_cost"
) }}
