-- One row per selector that is written in the ownership map, of a rule or a policy: when it last matched anything, and when
-- it last decided.
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
),

-- The selector of a policy is its name, and stands where today's terms do.
policies_matched as (
    select
        rule,
        max(last_date) as last_matched_date,
        max(last_date) filter (where precedence = 1) as last_decided_date
    from {{ ref("int_policies_matched") }}
    group by rule
),

selectors as (
    select
        selectors.selector_id,
        selectors.rule,
        selectors.selector,
        selectors.place,
        matched.last_matched_date,
        matched.last_decided_date
    from {{ source("lake", "ownership_selectors") }} as selectors
    left join matched on selectors.selector_id = matched.selector_id
    where not selectors.is_implied
    union all by name
    select
        policies.rule as selector_id,
        policies.rule,
        substr(policies.rule, 1 + length('policy:')) as selector,
        arg_max(policies.place, policies.valid_to) as place,
        policies_matched.last_matched_date,
        policies_matched.last_decided_date
    from {{ source("lake", "ownership_policies") }} as policies
    left join policies_matched on policies.rule = policies_matched.rule
    group by all
)

select
    selectors.selector_id,
    selectors.rule as service,
    selectors.selector,
    selectors.place,
    selectors.last_matched_date,
    selectors.last_decided_date,
    coalesce(days.days_after, (select count(*) from {{ ref("int_days_of_data") }})) as days_without_match
from selectors
left join {{ ref("int_days_of_data") }} as days on selectors.last_matched_date = days.usage_date
