-- One row per fragment, with the rule that owns it and what its tags claim, whether or not they decide. Not of the lines
-- that a policy allocates.
{{ config(materialized="view") }}
select
    fragments.*,

    decided.rule,
    decided.place as rule_place,
    case decided.outcome
        when 'decides' then decided.evidence
        when 'otherwise' then 'otherwise'
        else 'none'
    end as owner_evidence,
    decided.team,
    decided.service,
    decided.project,
    decided.environment,

    claimed.rule as claimed_rule,
    claimed.place as claimed_rule_place,
    claimed.team as claimed_team,

    coalesce(decided.is_split, false) as is_split,
    decided.owner_valid_from,
    decided.otherwise_team,
    decided.split_driver,
    decided.split_period,
    {{ split_period_start("decided.split_period", "fragments.usage_date") }} as split_period_start
from {{ ref("int_fragments_identified") }} as fragments
left join {{ ref("int_identities_resolved") }} as decided
    on fragments.identity_id = decided.identity_id
    and {{ holds_on("decided", "fragments.usage_date") }}
    and decided.decides
left join {{ ref("int_identities_resolved") }} as claimed
    on fragments.identity_id = claimed.identity_id
    and {{ holds_on("claimed", "fragments.usage_date") }}
    and claimed.is_first_claim
left join {{ ref("int_charges_by_policy") }} as by_policy on fragments.charge_id = by_policy.charge_id
where by_policy.charge_id is null
