-- One row per line of the bill that a policy of the ownership map keeps central or divides proportionally: the whole line,
-- put together again, with that policy. Of the usage that it was spread over nothing is left, unless it bills that.
{% set key = ["provider", "account_id", "charge_category", "line_item"] %}
with lines as (
    select
        charge_id,
        usage_date,
        {{ key | join(", ") }},
        {%- for column in ["operation", "model", "meter", "service_tier", "context_tier"] %}
        case when {{ bills_usage("charge_category") }} then {{ shared_value(column) }} end as {{ column }},
        {%- endfor %}
        {{ shared_value("quantity_unit") }} as quantity_unit,
        sum(quantity) as quantity,
        sum(cost_usd) as cost_usd,
        sum(list_cost_usd) as list_cost_usd
    from {{ ref("int_fragments_identified") }}
    where charge_id is not null
    group by charge_id, usage_date, {{ key | join(", ") }}
)

select
    lines.*,
    matched.rule,
    matched.place as rule_place,
    matched.policy,
    matched.team,
    matched.proportional_over
from lines
inner join {{ ref("int_policies_matched") }} as matched
    on {{ holds_on("matched", "lines.usage_date") }}
    {%- for column in key %}
    and lines.{{ column }} is not distinct from matched.{{ column }}
    {%- endfor %}
where matched.precedence = 1 and matched.policy <> 'user'
