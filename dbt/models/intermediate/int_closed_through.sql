-- One row: the last closed UTC month, null while none is, and the first open one, in which corrections are booked.
select
    max(month)::date as closed_through,
    (max(month) + interval 1 month)::date as first_open_month
from {{ source("lake", "closed_months") }}
