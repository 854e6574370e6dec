-- Of what matches an identity on a day exactly one rule decides, unless all are claims for shared services; at most one
-- is what the tags claim.
{{ config(meta={"dagster": {"ref": {"name": "int_identities_resolved"}}}) }}
select
    identity_id,
    valid_from,
    count(*) filter (where decides) as deciding,
    count(*) filter (where is_first_claim) as first_claims
from {{ ref("int_identities_resolved") }}
group by all
having
    count(*) filter (where decides) <> case when bool_and(outcome = 'claims a shared service') then 0 else 1 end
    or count(*) filter (where is_first_claim) > 1
