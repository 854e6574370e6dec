-- One row per kind of line that bills have, and policy of the ownership map that matches it, with its terms by validity
-- period; the one of `precedence` 1 decides.
{% set key = ["provider", "account_id", "charge_category", "line_item"] %}
with kinds as (
    select
        {{ key | join(", ") }},
        max(usage_date) as last_date
    from {{ ref("int_fragments_identified") }}
    where charge_id is not null
    group by all
)

-- A policy holds on all days, in its own terms, so that the deciding one is the same on all of them.
select
    kinds.*,
    policies.* exclude (level, keys, exact_keys),
    dense_rank() over (
        partition by kinds.{{ key | join(", kinds.") }}
        order by policies.level, policies.keys desc, policies.exact_keys desc, policies.rule
    ) as precedence
from kinds
inner join {{ source("lake", "ownership_policies") }} as policies
    on {{ matches_if_said("kinds.provider", "policies.provider_like") }}
    and {{ matches_if_said("kinds.account_id", "policies.account_like") }}
    and {{ matches_if_said("kinds.charge_category", "policies.category_like") }}
    and {{ matches_if_said("kinds.line_item", "policies.line_item_like") }}
where policies.line_item_like is not null or not ({{ bills_usage("kinds.charge_category") }})
