-- One row per identity, validity period and selector that matches it: who decides, and why the others do not.
select
    identity_id,
    valid_from::date as valid_from,
    valid_to::date as valid_to,
    selector_id,
    rule,
    place,
    selector,
    is_implied,
    level,
    keys,
    exact_keys,
    evidence,

    outcome,
    decides,
    is_first_claim,

    service,
    team,
    otherwise_team,
    project,
    environment,
    is_shared,
    is_split,
    split_driver,
    split_period,
    owner_place
from {{ ref("int_identities_resolved") }}
