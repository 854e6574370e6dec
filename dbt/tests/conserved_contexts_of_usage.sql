-- Splitting usage by context length loses no token.
{{ config(meta={"dagster": {"ref": {"name": "int_cells_rated"}}}) }}
select
    collected.cell_id,
    collected.quantity,
    sum(rated.quantity) as quantity_after
from {{ ref("int_cells_collected") }} as collected
left join {{ ref("int_cells_rated") }} as rated on collected.cell_id = rated.whole_cell_id
group by all
having collected.quantity is distinct from sum(rated.quantity)
