-- The shares of a split sum to exactly 1 in every period, and each team takes part once.
{{ config(meta={"dagster": {"ref": {"name": "int_splits_weighed"}}}) }}
select rule, owner_valid_from, split_period_start, sum(split_share) as shares
from {{ ref("int_splits_weighed") }}
group by all
having sum(split_share) <> 1 or count(distinct coalesce(team, '')) <> count(*)
