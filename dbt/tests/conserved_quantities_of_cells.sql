-- A cell's quantity stands once, however many charge lines pay for it.
{{ config(meta={"dagster": {"ref": {"name": "int_charges_spread"}}}) }}
{{ not_conserved(ref("int_cells_rated"), ref("int_charges_spread"), ["cell_id"], "quantity", "quantity") }}
