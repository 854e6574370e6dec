-- The quantities of a cell's fragments add up to the cell's.
{{ config(meta={"dagster": {"ref": {"name": "int_fragments_identified"}}}) }}
{{ not_conserved(
    ref("int_charges_spread"), ref("int_fragments_identified"), ["cell_id", "charge_id"], "quantity", "quantity",
    "cell_id is not null"
) }}
