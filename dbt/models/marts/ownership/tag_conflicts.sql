-- One row per UTC month, identity, team and claim: a tag names one team, durable identity another, and the latter pays.
-- Where either side is a service that several teams pay, it is a conflict only when they have no team in common.
with decided as (
    select * from {{ ref("int_identities_resolved") }} where decides and level < {{ claim_level() }}
),

claimed as (
    select * from {{ ref("int_identities_resolved") }} where is_first_claim
),

payers as (
    select rule, valid_from as owner_valid_from, team
    from {{ source("lake", "ownership_owners") }}
    where not is_split
    union
    select rule, valid_from as owner_valid_from, team
    from {{ source("lake", "ownership_splits") }}
),

agreed as (
    select distinct decided.identity_id, decided.valid_from
    from decided
    inner join claimed on decided.identity_id = claimed.identity_id and decided.valid_from = claimed.valid_from
    inner join payers on decided.rule = payers.rule and decided.owner_valid_from = payers.owner_valid_from
    inner join payers as claimed_payers
        on claimed.rule = claimed_payers.rule
        and claimed.owner_valid_from = claimed_payers.owner_valid_from
        and payers.team = claimed_payers.team
),

-- The tags by which the claiming selector knows the identity; nearly always one.
tags_of_claims as (
    select
        claimed.identity_id,
        claimed.selector_id,
        claimed.valid_from,
        string_agg(conditions.tag_key, ', ' order by conditions.tag_key) as tag_key,
        string_agg(identities.deciding_tags[conditions.tag_key], ', ' order by conditions.tag_key) as tag_value
    from claimed
    inner join {{ ref("int_identities") }} as identities on claimed.identity_id = identities.identity_id
    inner join {{ source("lake", "ownership_conditions") }} as conditions
        on claimed.selector_id = conditions.selector_id
        and conditions.dimension = 'tag'
    group by all
)

select
    date_trunc('month', allocations.usage_date)::date as month,
    allocations.identity_id,
    allocations.team,
    decided.service,
    decided.evidence,
    decided.place as rule_place,

    claimed.team as claimed_team,
    claimed.service as claimed_service,
    tags_of_claims.tag_key,
    tags_of_claims.tag_value,
    claimed.place as claimed_rule_place,

    sum(allocations.cost_usd)::decimal(38, 12) as cost_usd,
    min(allocations.usage_date)::date as first_date,
    max(allocations.usage_date)::date as last_date
from {{ ref("int_allocations") }} as allocations
inner join decided
    on allocations.identity_id = decided.identity_id
    and {{ holds_on("decided", "allocations.usage_date") }}
inner join claimed on decided.identity_id = claimed.identity_id and decided.valid_from = claimed.valid_from
inner join tags_of_claims
    on claimed.identity_id = tags_of_claims.identity_id
    and claimed.selector_id = tags_of_claims.selector_id
    and claimed.valid_from = tags_of_claims.valid_from
left join agreed on decided.identity_id = agreed.identity_id and decided.valid_from = agreed.valid_from
-- the owner of a split by usage in which nobody used anything is none of those it is split between
left join payers
    on claimed.rule = payers.rule
    and claimed.owner_valid_from = payers.owner_valid_from
    and allocations.team = payers.team
where agreed.identity_id is null and payers.team is null
group by all
