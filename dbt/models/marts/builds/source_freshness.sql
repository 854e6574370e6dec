-- One row per source that was ever pulled: through which UTC day it is in, and what is missing before that.
with days as (
    select
        source,
        usage_date,
        count(*) as kinds,
        bool_and(pulled_at >= usage_date + interval 1 day) as is_over,
        max(pulled_at) as pulled_at
    from {{ source("lake", "pulled_days") }}
    group by source, usage_date
),

judged as (
    select
        *,
        is_over and kinds = max(kinds) over (partition by source) as is_good
    from days
)

select
    source,
    min(usage_date) as first_day,
    max(usage_date) filter (is_good) as last_good_day,
    (
        date_diff('day', min(usage_date), max(usage_date) filter (is_good)) + 1 - count(*) filter (is_good)
    )::bigint as missing_days,
    max(pulled_at) as pulled_at
from judged
group by source
