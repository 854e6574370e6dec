-- Finding the owner of fragments multiplies and loses none.
{{ config(meta={"dagster": {"ref": {"name": "int_fragments_owned"}}}) }}
{{ not_conserved(
    ref("int_fragments_identified"), ref("int_fragments_owned"), ["fragment_id"], "cost_usd", "cost_usd"
) }}
