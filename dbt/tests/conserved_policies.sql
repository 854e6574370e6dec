-- Every line that a policy allocates is its payers' to the last digit, by no other rule.
{{ config(meta={"dagster": {"ref": {"name": "int_allocations_by_policy"}}}) }}
{{ not_conserved(
    ref("int_charges_by_policy"), ref("int_allocations"), ["charge_id", "rule", "rule_place"], "cost_usd", "cost_usd",
    "charge_id in (select by_policy.charge_id from " ~ ref("int_charges_by_policy") ~ " as by_policy)"
) }}
