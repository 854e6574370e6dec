-- One row per selector written in the ownership map, of rules and of policies, that matched nothing in the last
-- `stale_after_days` days of data. With fewer days of data than that none is stale.
select
    used.service,
    used.selector,
    used.selector_id,
    used.place,
    used.last_matched_date::date as last_matched_date,
    used.last_decided_date::date as last_decided_date,
    used.days_without_match::bigint as days_without_match
from {{ ref("int_selectors_used") }} as used
inner join {{ source("lake", "thresholds") }} as thresholds
    on used.days_without_match >= thresholds.stale_after_days
