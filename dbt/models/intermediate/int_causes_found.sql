-- One row per cell (or request coordinate that met none), delta and finding: what a part of a delta comes from, in USD.
select
    causes.*,
    cells.usage_date,
    cells.provider,
    cells.account_id,
    cells.provider_project_id,
    cells.provider_project_name,
    cells.api_key_id,
    cells.api_key_name,
    cells.model,
    cells.meter
from (
    select *, 'billed minus usage' as delta from {{ ref("int_bill_explained") }}
    union all by name
    select *, 'usage minus requests' as delta from {{ ref("int_usage_explained") }}
) as causes
inner join {{ ref("int_cells_reconciled") }} as cells on causes.cell_id = cells.cell_id
