-- One row per time that a UTC month was closed: by whom, why, on what numbers; and who opened it again, if anybody did.
select
    month,
    is_closed,
    closed_at,
    closed_by,
    reason,
    accepted,
    allocations,
    cost_usd,
    billed_usd,
    estimated_usd,
    corrections_usd,
    statement_sha256,
    reopened_at,
    reopened_by,
    reopened_reason
from {{ source("lake", "closings") }}
