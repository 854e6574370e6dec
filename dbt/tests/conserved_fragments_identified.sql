-- Looking up the gateway identity of requests that speak for themselves multiplies and loses none. Of those on cells the
-- tests of cells and quantities tell.
{{ config(meta={"dagster": {"ref": {"name": "int_fragments_identified"}}}) }}
{{ not_conserved(
    ref("int_fragments_cut"), ref("int_fragments_identified"), ["usage_date", "request_group_id"], "cost_usd", "cost_usd",
    "cell_id is null"
) }}
