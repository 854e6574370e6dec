-- Usage that two declared capacities take as theirs uses both, so that less is idle than is. A warning, with both names:
-- declare capacities for the same usage as one.
{{ config(severity="warn", meta={"dagster": {"ref": {"name": "stg_charges_of_capacities"}}}) }}
select
    one.provider,
    one.account_id,
    one.model,
    one.line_item as capacity,
    other.line_item as other_capacity,
    min(one.usage_date) as first_date,
    max(one.usage_date) as last_date
from {{ ref("stg_charges_of_capacities") }} as one
inner join {{ ref("stg_charges_of_capacities") }} as other
    on one.usage_date = other.usage_date
    and one.provider = other.provider
    and one.account_id is not distinct from other.account_id
    and one.model = other.model
    and (one.service_tier is null or other.service_tier is null or one.service_tier = other.service_tier)
    and one.line_item < other.line_item
group by all
