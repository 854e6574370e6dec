-- One row per fragment, with the rule that owns it.
-- Durable identity decides; tags do only where it is shared or unknown.
with durable as (
    select * from {{ ref("int_identities_matched") }} where not is_claim and precedence = 1
),

claims as (
    select * from {{ ref("int_identities_matched") }} where is_claim and precedence = 1
),

decided as (
    select
        fragments.*,
        case
            when durable_owner.rule is null or (durable_owner.is_shared and claimed_owner.rule is not null)
                then claimed_owner.rule
            else durable_owner.rule
        end as rule,
        case
            when durable_owner.rule is not null and not durable_owner.is_shared then {{ evidence_of("durable.level") }}
            when claimed_owner.rule is not null then 'tag'
            when durable_owner.team is not null then 'otherwise'
            else 'none'
        end as owner_evidence,
        case
            when durable_owner.rule is null or (durable_owner.is_shared and claimed_owner.rule is not null)
                then claims.place
            else durable.place
        end as rule_place
    from {{ ref("int_fragments_identified") }} as fragments
    left join durable on fragments.identity_id = durable.identity_id
    left join {{ source("lake", "ownership_owners") }} as durable_owner
        on durable.rule = durable_owner.rule
        and fragments.usage_date >= durable_owner.valid_from
        and fragments.usage_date < durable_owner.valid_to
    left join claims on fragments.identity_id = claims.identity_id
    left join {{ source("lake", "ownership_owners") }} as claimed_owner
        on claims.rule = claimed_owner.rule
        and fragments.usage_date >= claimed_owner.valid_from
        and fragments.usage_date < claimed_owner.valid_to
        -- a claim for a service that is itself shared says nothing
        and not claimed_owner.is_shared
)

select
    decided.*,
    owners.team,
    owners.service,
    owners.project,
    owners.environment,
    coalesce(owners.is_split, false) as is_split
from decided
left join {{ source("lake", "ownership_owners") }} as owners
    on decided.rule = owners.rule
    and decided.usage_date >= owners.valid_from
    and decided.usage_date < owners.valid_to
