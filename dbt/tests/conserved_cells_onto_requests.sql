-- What pays for a cell is cut into requests and the unseen rest to the last digit.
{{ config(meta={"dagster": {"ref": {"name": "int_fragments_identified"}}}) }}
{{ not_conserved(
    ref("int_charges_spread"), ref("int_fragments_identified"), ["cell_id", "charge_id"], "amount", "cost_usd",
    "cell_id is not null"
) }}
