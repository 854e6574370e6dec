-- The promise: for each line of the bill the allocations sum to its amount, digit for digit.
{{ config(meta={"dagster": {"ref": {"name": "fct_cost_allocations"}}}) }}
{{ not_conserved(
    ref("stg_charges"), ref("int_allocations"), ["charge_id"], "billed_usd", "cost_usd", "charge_id is not null"
) }}
