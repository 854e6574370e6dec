-- Splitting a fragment between teams keeps it whole, in quantity.
{{ config(meta={"dagster": {"ref": {"name": "int_fragments_split"}}}) }}
{{ not_conserved(
    ref("int_fragments_owned"), ref("int_fragments_split"), ["fragment_id"], "quantity", "quantity", of_split_services()
) }}
