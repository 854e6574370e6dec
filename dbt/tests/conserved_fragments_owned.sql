-- Finding the owner of fragments multiplies and loses none, and leaves out just the lines that a policy allocates.
{{ config(meta={"dagster": {"ref": {"name": "int_fragments_owned"}}}) }}
{{ not_conserved(
    ref("int_fragments_identified"), ref("int_fragments_owned"), ["usage_date", "identity_id", "charge_id"], "cost_usd",
    "cost_usd",
    "charge_id is null or charge_id not in (select by_policy.charge_id from " ~ ref("int_charges_by_policy") ~ " as by_policy)"
) }}
