-- One row per split rule, validity period of its owner, month or day that it is split by, and team that takes a part.
-- Fixed shares are weights as they are, for any day. By usage, a team weighs what it used of its own in that month or
-- day; where none of them used anything, all of it is the `otherwise` team's, or nobody's.
with used as (
    {%- for period in ["month", "day"] %}
    select
        '{{ period }}' as split_period,
        {{ split_period_start("'" ~ period ~ "'", "usage_date") }} as split_period_start,
        team,
        sum(cost_usd) as cost_usd,
        sum(quantity) filter (where quantity_unit = 'tokens') as tokens,
        sum(quantity) filter (where meter = 'requests') as requests
    from {{ ref("int_fragments_owned") }}
    -- what is to be split has no team yet: a split's results are not a team's own
    where team is not null
    group by all
    {{ "union all" if not loop.last }}
    {%- endfor %}
),

periods as (
    select distinct rule, owner_valid_from, split_driver, split_period, split_period_start, otherwise_team
    from {{ ref("int_fragments_owned") }}
    where split_driver is not null
),

-- Money that nobody priced does not weigh, and credits that outweigh what a team used do not weigh against others.
measured as (
    select
        periods.*,
        splits.team,
        coalesce(
            greatest(
                case periods.split_driver
                    when 'cost' then used.cost_usd
                    when 'tokens' then used.tokens
                    when 'requests' then used.requests
                end,
                0
            ),
            0
        )::decimal(38, 12) as amount
    from periods
    inner join {{ source("lake", "ownership_splits") }} as splits
        on periods.rule = splits.rule
        and periods.owner_valid_from = splits.valid_from
    left join used
        on periods.split_period = used.split_period
        and periods.split_period_start = used.split_period_start
        and splits.team = used.team
),

by_usage as (
    select
        *,
        sum(amount) over (partition by rule, owner_valid_from, split_period_start) as amount_total,
        case split_driver when 'cost' then {{ money_weight("amount") }} else {{ quantity_weight("amount") }} end
            as weight
    from measured
),

unused as (
    select rule, owner_valid_from, split_period_start, otherwise_team
    from by_usage
    group by all
    having sum(weight) = 0
),

weights as (
    select
        rule,
        valid_from as owner_valid_from,
        null::date as split_period_start,
        team,
        null as owner_evidence,
        null::decimal(38, 12) as split_weight,
        null::decimal(38, 12) as split_total,
        {{ money_weight("share") }} as weight
    from {{ source("lake", "ownership_splits") }}
    where share is not null
    union all
    select
        rule,
        owner_valid_from,
        split_period_start,
        team,
        null as owner_evidence,
        amount as split_weight,
        amount_total as split_total,
        weight
    from by_usage
    union all
    select
        rule,
        owner_valid_from,
        split_period_start,
        otherwise_team as team,
        case when otherwise_team is not null then 'otherwise' else 'nobody among them used anything' end
            as owner_evidence,
        0 as split_weight,
        0 as split_total,
        1 as weight
    from unused
),

cumulated as (
    select
        *,
        sum(weight) over (period order by team rows unbounded preceding) as weight_upto,
        sum(weight) over (period) as weight_total
    from weights
    where weight > 0
    window period as (partition by rule, owner_valid_from, split_period_start)
)

select
    *,
    {{ exact_share("1::decimal(38, 12)", "weight", "weight_upto", "weight_total") }}::decimal(18, 12) as split_share
from cumulated
