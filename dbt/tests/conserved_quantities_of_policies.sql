-- Every line that a policy allocates is its payers' in quantity.
{{ config(meta={"dagster": {"ref": {"name": "int_allocations_by_policy"}}}) }}
{{ not_conserved(
    ref("int_charges_by_policy"), ref("int_allocations_by_policy"), ["charge_id"], "quantity", "quantity"
) }}
