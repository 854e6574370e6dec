-- The periods of a thing's names cover all days, each once: no overlap, no hole. Else a join would repeat money.
{{ config(meta={"dagster": {"ref": {"name": "int_names"}}}) }}
with neighbours as (
    select
        *,
        lag(valid_to, 1, date '0001-01-01') over thing as valid_to_before,
        lead(valid_from, 1, date '9999-12-31') over thing as valid_from_after
    from {{ ref("int_names") }}
    window thing as (partition by kind, provider, account_id, gateway, id order by valid_from, valid_to)
)

select *
from neighbours
where valid_from <> valid_to_before or valid_to <> valid_from_after or valid_from >= valid_to
