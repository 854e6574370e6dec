-- One row per charge line and declared percentage of it: a line of its own, on the same day and to the same identity. It
-- follows what the line is now, refunds and restatements too.
{{ config(materialized="table") }}
{% set amount = in_proportion("lines.billed_cost", "(percentages.percent * 1000000000000)::hugeint", "100000000000000::hugeint") %}
select
    lines.* replace (
        concat(lines.charge_id, '/', percentages.source, '/', percentages.name) as charge_id,
        percentages.source as source,
        percentages.charge_category as charge_category,
        percentages.name as line_item,
        null as quantity,
        null as quantity_unit,
        {{ amount }} as billed_cost,
        null as list_cost,
        {{ in_usd(amount, "lines.currency", "lines.usd_per_unit") }} as billed_usd,
        null as list_usd
    )
from {{ ref("stg_charges_delivered") }} as lines
inner join {{ source("lake", "declared_percentages") }} as percentages
    on {{ holds_on("percentages", "lines.usage_date") }}
    and lines.provider = percentages.of_provider
    and {{ is_of_account("percentages", "lines.account_id") }}
    and (percentages.of_category is null or lines.charge_category = percentages.of_category)
    and {{ matches_if_said("lines.line_item", "percentages.of_line_item_like") }}
