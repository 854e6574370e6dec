-- The periods of an identity cover all days, each once: no overlap, no hole.
{{ config(meta={"dagster": {"ref": {"name": "int_identities_resolved"}}}) }}
with periods as (
    select distinct identity_id, valid_from, valid_to from {{ ref("int_identities_resolved") }}
),

neighbours as (
    select
        *,
        lag(valid_to, 1, date '0001-01-01') over (partition by identity_id order by valid_from, valid_to)
            as valid_to_before,
        lead(valid_from, 1, date '9999-12-31') over (partition by identity_id order by valid_from, valid_to)
            as valid_from_after
    from periods
)

select *
from neighbours
where valid_from <> valid_to_before or valid_to <> valid_from_after or valid_from >= valid_to
