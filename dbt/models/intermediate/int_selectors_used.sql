-- One row per selector that is written in the ownership map: when it last matched anything, and when it last decided.
with used as (
    select distinct identity_id, usage_date from {{ ref("int_fragments_identified") }}
),

matched as (
    select
        resolved.selector_id,
        max(used.usage_date) as last_matched_date,
        max(used.usage_date) filter (where resolved.decides) as last_decided_date
    from {{ ref("int_identities_resolved") }} as resolved
    inner join used
        on resolved.identity_id = used.identity_id
        and {{ holds_on("resolved", "used.usage_date") }}
    group by all
)

select
    selectors.selector_id,
    selectors.rule as service,
    selectors.selector,
    selectors.place,
    matched.last_matched_date,
    matched.last_decided_date,
    coalesce(days.days_after, (select count(*) from {{ ref("int_days_of_data") }})) as days_without_match
from {{ source("lake", "ownership_selectors") }} as selectors
left join matched on selectors.selector_id = matched.selector_id
left join {{ ref("int_days_of_data") }} as days on matched.last_matched_date = days.usage_date
where not selectors.is_implied
