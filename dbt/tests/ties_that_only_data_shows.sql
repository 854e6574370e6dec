-- Two rules that match what was used equally well, such as one by a key's id and one by its name: either would be a
-- guess. Shows what was used, both places in the map, and the cost that is at stake.
{{ config(meta={"dagster": {"ref": {"name": "int_identities_resolved"}}}) }}
with deciding as (
    select * from {{ ref("int_identities_resolved") }} where decides or outcome = 'shared: tags decide'
),

ties as (
    select distinct
        deciding.identity_id,
        deciding.valid_from,
        deciding.valid_to,
        deciding.rule,
        deciding.place,
        rivals.rule as rival_rule,
        rivals.place as rival_place
    from deciding
    inner join {{ ref("int_identities_resolved") }} as rivals
        on deciding.identity_id = rivals.identity_id
        and deciding.valid_from = rivals.valid_from
        and deciding.level = rivals.level
        and deciding.keys = rivals.keys
        and deciding.exact_keys = rivals.exact_keys
        and deciding.rule <> rivals.rule
    where rivals.outcome <> 'claims a shared service'
)

select
    ties.rule,
    ties.place,
    ties.rival_rule,
    ties.rival_place,
    sum(fragments.cost_usd) as cost_usd,
    min(fragments.usage_date) as first_date,
    max(fragments.usage_date) as last_date,
    identities.*
from ties
inner join {{ ref("int_fragments_owned") }} as fragments
    on ties.identity_id = fragments.identity_id
    and {{ holds_on("ties", "fragments.usage_date") }}
inner join {{ ref("int_identities") }} as identities on ties.identity_id = identities.identity_id
group by all
