-- One row per allocation of a closed month, as it was when the month was closed, corrections booked in it included.
select
    * replace (true as is_closed),
    coalesce(corrects_date, usage_date) as known_of_date
from {{ source("lake", "closed_allocations") }}
