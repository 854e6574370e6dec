-- A line that a policy allocates is put together whole, from fragments of its own only.
{{ config(meta={"dagster": {"ref": {"name": "int_charges_by_policy"}}}) }}
{{ not_conserved(
    ref("int_fragments_identified"), ref("int_charges_by_policy"), ["charge_id"], "cost_usd", "cost_usd",
    "charge_id in (select by_policy.charge_id from " ~ ref("int_charges_by_policy") ~ " as by_policy)"
) }}
