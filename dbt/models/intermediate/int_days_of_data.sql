-- One row per UTC day with any cost or usage. Days that nobody pulled are no evidence of anything, so they do not count.
select
    usage_date,
    (row_number() over (order by usage_date desc) - 1)::bigint as days_after
from (select distinct usage_date from {{ ref("int_fragments_identified") }}) as days
