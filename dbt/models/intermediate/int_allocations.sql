-- One row per UTC day and fragment of the bill: who, what, how much, and how it was found out, as known today. What
-- `fct_cost_allocations` says of a closed month is what was known when it was closed.
{{ config(materialized="view") }}
select * from {{ ref("int_allocations_by_identity") }}
union all by name
select * from {{ ref("int_allocations_by_policy") }}
