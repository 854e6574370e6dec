-- One row per line of the bill that a policy allocates and owner that pays a part of it. Its identity is null: nobody was
-- recognised by anything.
with lines as (
    select *, {{ scope_key("proportional_over") }} as scope_key, date_trunc('month', usage_date)::date as month
    from {{ ref("int_charges_by_policy") }}
),

-- `central` is all one team's, and so is what is proportional to nothing.
shares as (
    select
        lines.*,
        coalesce(weighed.team, lines.team, 'unallocated') as payer,
        coalesce(weighed.project, 'unspecified') as project,
        coalesce(weighed.environment, 'unspecified') as environment,
        coalesce(weighed.service, 'unspecified') as service,
        case
            when lines.policy = 'central' or weighed.team is not null then concat(lines.policy, ' policy')
            when lines.team is not null then 'otherwise'
            else 'nobody pays anything'
        end as owner_evidence,
        coalesce(weighed.weight, 1) as weight,
        coalesce(weighed.weight_upto, 1) as weight_upto,
        coalesce(weighed.weight_total, 1) as weight_total,
        case when lines.policy = 'proportional' then coalesce(weighed.amount, 0) end as split_weight,
        case when lines.policy = 'proportional' then coalesce(weighed.amount_total, 0) end as split_total
    from lines
    left join {{ ref("int_owners_weighed") }} as weighed
        on lines.proportional_over = weighed.proportional_over
        and lines.scope_key = weighed.scope_key
        and lines.month = weighed.month
)

select
    usage_date::date as usage_date,
    concat(
        md5({{ key_of(["charge_id", "project", "environment", "service"]) }}), '/', payer
    ) as allocation_id,

    payer as team,
    project,
    environment,
    service,

    provider,
    account_id,

    operation,
    coalesce(model, 'unspecified') as model,
    coalesce(meter, 'unspecified') as meter,
    service_tier,
    context_tier,
    charge_category,
    line_item,

    {{ exact_share("quantity", "weight", "weight_upto", "weight_total", quantity_units("quantity")) }} as quantity,
    quantity_unit,
    {{ exact_share("cost_usd", "weight", "weight_upto", "weight_total") }} as cost_usd,
    {{ exact_share("list_cost_usd", "weight", "weight_upto", "weight_total") }} as list_cost_usd,
    'billed' as cost_basis,

    charge_id,
    'by policy' as charge_match,
    'by policy' as request_match,
    rule,
    rule_place,
    owner_evidence,

    {{ exact_share("1::decimal(38, 12)", "weight", "weight_upto", "weight_total") }}::decimal(18, 12) as split_share,
    split_weight::decimal(38, 12) as split_weight,
    split_total::decimal(38, 12) as split_total,
    case when policy = 'proportional' then 'cost' end as split_driver,
    case when policy = 'proportional' then month end as split_period_start
from shares
