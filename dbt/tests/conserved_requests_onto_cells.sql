-- Comparing requests with cells multiplies and loses none.
{{ config(meta={"dagster": {"ref": {"name": "int_requests_on_cells"}}}) }}
{{ not_conserved(
    ref("int_requests_rated"), ref("int_requests_on_cells"), ["coordinate_id"], "rated_cost", "rated_cost"
) }}
