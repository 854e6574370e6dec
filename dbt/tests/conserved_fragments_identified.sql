-- Looking up the gateway identity of fragments multiplies and loses none.
{{ config(meta={"dagster": {"ref": {"name": "int_fragments_identified"}}}) }}
{{ not_conserved(
    ref("int_fragments_cut"), ref("int_fragments_identified"), ["usage_date", "charge_id", "cell_id", "request_group_id"],
    "cost_usd", "cost_usd"
) }}
