-- One row per fragment of the bill and who pays it: open months as known today, closed ones as they were closed, and
-- what has changed of those since in the first open month.
select
    allocations.*,
    null::date as corrects_date,
    false as is_closed
from {{ ref("int_allocations") }} as allocations
cross join {{ ref("int_closed_through") }} as closed
where closed.closed_through is null or allocations.usage_date >= closed.first_open_month
union all by name
select * exclude (known_of_date) from {{ ref("int_allocations_closed") }}
union all by name
select *, false as is_closed from {{ ref("int_corrections") }}
