-- The published decisions say of every allocation that is not booked yet which rule owns it and what its tags claim, and nothing else.
{{ config(meta={"dagster": {"ref": {"name": "ownership_decisions"}}}) }}
with decided as (select * from {{ ref("ownership_decisions") }} where decides),

claimed as (select * from {{ ref("ownership_decisions") }} where is_first_claim)

select
    allocations.allocation_id,
    allocations.identity_id,
    allocations.rule,
    decided.rule as decided_rule,
    allocations.claimed_rule_place,
    claimed.place as claimed_place
from {{ ref("int_allocations") }} as allocations
left join decided
    on allocations.identity_id = decided.identity_id
    and {{ holds_on("decided", "allocations.usage_date") }}
left join claimed
    on allocations.identity_id = claimed.identity_id
    and {{ holds_on("claimed", "allocations.usage_date") }}
where
    -- a policy is no decision about an identity: see conserved_policies
    allocations.charge_match is distinct from 'by policy'
    and (
        allocations.rule is distinct from decided.rule
        or allocations.rule_place is distinct from decided.place
        or allocations.claimed_rule_place is distinct from claimed.place
        or allocations.claimed_team is distinct from claimed.team
        or (not decided.is_split and decided.team is not null and allocations.team <> decided.team)
    )
