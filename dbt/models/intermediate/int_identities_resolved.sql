-- One row per identity, validity period and selector that matches it: who decides, and why the others do not.
-- An identity's periods are cut only where an owner of one of the rules that match it changes.
{% set period = "partition by identity_id, valid_from" %}
with starts as (
    select distinct matched.identity_id, owners.valid_from
    from {{ ref("int_identities_matched") }} as matched
    inner join {{ source("lake", "ownership_owners") }} as owners on matched.rule = owners.rule
),

periods as (
    select
        identity_id,
        valid_from,
        lead(valid_from, 1, date '9999-12-31') over (partition by identity_id order by valid_from) as valid_to
    from starts
),

-- A claim for a service that is itself shared says nothing.
candidates as (
    select
        matched.*,
        periods.valid_from,
        periods.valid_to,
        case
            when not matched.is_claim then 'durable'
            when owners.is_shared then 'void claim'
            else 'claim'
        end as role,
        owners.valid_from as owner_valid_from,
        owners.place as owner_place,
        owners.service,
        case when not owners.is_split then owners.team end as team,
        case when owners.is_split then owners.team end as otherwise_team,
        owners.project,
        owners.environment,
        owners.is_shared,
        owners.is_split,
        owners.split_driver,
        owners.split_period
    from periods
    inner join {{ ref("int_identities_matched") }} as matched on periods.identity_id = matched.identity_id
    inner join {{ source("lake", "ownership_owners") }} as owners
        on matched.rule = owners.rule
        and {{ holds_on("owners", "periods.valid_from") }}
),

ranked as (
    select
        *,
        row_number() over (
            {{ period }}, role
            order by level, keys desc, exact_keys desc, selector_id
        ) as precedence,
        min(level) over ({{ period }}, role) as strongest_level
    from candidates
),

-- Durable identity decides; tags do only where it is shared or unknown.
settled as (
    select
        *,
        bool_or(role = 'durable' and precedence = 1 and not is_shared) over ({{ period }}) as is_settled,
        bool_or(role = 'claim') over ({{ period }}) as is_claimed
    from ranked
),

judged as (
    select
        *,
        case
            when role = 'void claim' then 'claims a shared service'
            when role = 'claim' and is_settled then 'tags do not decide here'
            when precedence > 1 and level > strongest_level and role = 'durable' then 'a stronger identity decides'
            when precedence > 1 then 'less specific'
            when role = 'claim' or not is_shared then 'decides'
            when is_claimed then 'shared: tags decide'
            when team is not null then 'otherwise'
            else 'shared: nobody claims it'
        end as outcome
    from settled
)

select
    identity_id,
    valid_from,
    valid_to,
    selector_id,
    rule,
    place,
    selector,
    is_implied,
    level,
    keys,
    exact_keys,
    {{ evidence_of("level") }} as evidence,

    outcome,
    outcome in ('decides', 'otherwise', 'shared: nobody claims it') as decides,
    role = 'claim' and precedence = 1 as is_first_claim,

    service,
    team,
    otherwise_team,
    project,
    environment,
    is_shared,
    is_split,
    split_driver,
    split_period,
    owner_valid_from,
    owner_place
from judged
