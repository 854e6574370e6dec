-- One row per cell, charge line (null for the cell's own usage) and cause of what was billed beyond the rated usage.
-- The lines that come closest to saying what the cell says are compared with it; every other line is a difference whole.
-- `base_usd` is what our prices say of a row of cause `price`.
{% set closeness = ["counted", "agreeing", "coarser", "unnamed"] %}
{% set family = "usage_date, provider, account_id, model_key, family" %}
with lines as (
    select
        *,
        case role
            {% for role in closeness %}
            when '{{ role }}' then {{ loop.index }}
            {% endfor %}
        end as distance
    from {{ ref("int_lines_compared") }}
),

closest as (
    select
        cell_id,
        arg_min(role, distance) as role,
        coalesce(sum(line_rated_cost), 0) as line_rated_cost,
        sum(billed_weight) as billed_weight
    from lines
    where distance is not null
    group by cell_id
),

cells as (
    select
        cells.*,
        closest.role as closest_role,
        closest.line_rated_cost,
        closest.billed_weight
    from {{ ref("int_cells_reconciled") }} as cells
    left join closest on cells.cell_id = closest.cell_id
),

of_lines as (
    select
        lines.cell_id,
        lines.charge_category,
        lines.line_item,
        case
            when lines.role in ('counted', 'agreeing') then 'price'
            when lines.role = 'unnamed' and cells.is_counted and cells.closest_role = 'unnamed' then 'price'
            when lines.role = 'coarser' then 'tier_and_cache'
            when lines.role = 'apart' then 'not_usage'
            when lines.role = 'without report' then 'unsettled'
            else 'unexplained'
        end as cause,
        case
            when lines.role in ('apart', 'without report', 'without usage', 'coarser') then lines.role
            when lines.role = 'unnamed' and not (cells.is_counted and cells.closest_role = 'unnamed') then 'unnamed'
            when cells.is_usage_priced then 'priced'
            else 'unpriced'
        end as finding,
        lines.amount - coalesce(lines.line_rated_cost, 0) as amount_usd,
        coalesce(lines.line_rated_cost, 0) as base_usd
    from lines
    inner join cells on lines.cell_id = cells.cell_id
),

-- Usage that no line bills, while lines of the same model bill more than was reported, is billed by another name.
offsets as (
    select
        {{ family }},
        sum(usage_weight) filter (where closest_role is null) as unbilled_weight,
        least(
            sum(usage_weight) filter (where closest_role is null),
            greatest(sum(billed_weight - usage_weight) filter (where billed_weight is not null), 0)
        ) as offset_weight
    from cells
    where is_counted and is_billed
    group by all
    having sum(usage_weight) filter (where closest_role is null) > 0
),

own as (
    select
        cells.*,
        coalesce(
            {{ in_proportion("cells.rated_usage_usd", "offsets.offset_weight", "offsets.unbilled_weight") }}, 0
        ) as offset_usd,
        cells.rated_usage_usd - coalesce(cells.unbilled_usd, 0) as rated_billed_usd
    from cells
    left join offsets
        on cells.usage_date = offsets.usage_date
        and cells.provider = offsets.provider
        and cells.account_id is not distinct from offsets.account_id
        and cells.model_key is not distinct from offsets.model_key
        and cells.family is not distinct from offsets.family
        and cells.closest_role is null
    where cells.is_counted and cells.rated_usage_usd is not null
),

explained as (
    select * from of_lines
    union all by name
    select
        cell_id,
        case when closest_role in ('counted', 'coarser') then 'tier_and_cache' else 'price' end as cause,
        case closest_role when 'counted' then 'quantity' when 'coarser' then 'coarser' else 'priced' end as finding,
        line_rated_cost - rated_billed_usd as amount_usd,
        case when closest_role in ('agreeing', 'unnamed') then rated_billed_usd - line_rated_cost end as base_usd
    from own
    where closest_role is not null
    union all by name
    select
        cell_id,
        'unsettled' as cause,
        'no bill' as finding,
        -unbilled_usd as amount_usd
    from own
    where not is_billed
    union all by name
    select
        cell_id,
        'tier_and_cache' as cause,
        'billed otherwise' as finding,
        -offset_usd as amount_usd
    from own
    where closest_role is null and is_billed
    union all by name
    select
        cell_id,
        'unexplained' as cause,
        'unbilled' as finding,
        offset_usd - rated_usage_usd as amount_usd
    from own
    where closest_role is null and is_billed
)

select
    cell_id,
    cause,
    finding,
    charge_category,
    line_item,
    amount_usd::decimal(38, 12) as amount_usd,
    case when finding = 'priced' then base_usd end::decimal(38, 12) as base_usd
from explained
where amount_usd <> 0
