-- Splitting a fragment between teams keeps it whole, at list prices.
{{ config(meta={"dagster": {"ref": {"name": "int_fragments_split"}}}) }}
{{ not_conserved(
    ref("int_fragments_owned"), ref("int_fragments_split"), ["fragment_id"], "list_cost_usd", "list_cost_usd", of_split_services()
) }}
