-- Comparing usage with its bill and its requests multiplies and loses none.
{{ config(meta={"dagster": {"ref": {"name": "int_cells_reconciled"}}}) }}
{{ not_conserved(
    ref("int_cells_rated"), ref("int_cells_reconciled"), ["cell_id"], "rated_cost", "rated_usage_usd", "evidence = 'usage'"
) }}
