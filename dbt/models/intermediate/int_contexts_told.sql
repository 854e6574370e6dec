-- One row per usage cell whose report does not say which tokens were long context, where something else tells:
-- the bill, which counts its long-context tokens, and the requests that went through the cell. The bill says how many;
-- requests prove whose they were; what no request proves is shared by what is left of the cells. Tokens in thousandths.
{% set identity = ["provider_project_id", "api_key_id"] %}
{% set levels = [
    ("exact", identity + ["model", "meter", "service_tier"]),
    ("catalogue model", identity + ["model_key", "meter", "service_tier"]),
    ("without service tier", identity + ["model_key", "meter"]),
] %}
with cells as (
    select
        cell_id, usage_date, provider, account_id, provider_project_id, api_key_id, model, model_key, meter,
        service_tier, {{ quantity_weight("quantity") }} as weight
    from {{ ref("int_cells_collected") }}
    where evidence = 'usage' and context_tier is null and unit = 'tokens'
),

lines as (
    select
        charge_id as named_id, usage_date, provider, account_id, provider_project_id, api_key_id, model, model_key,
        meter, service_tier, {{ quantity_weight("quantity") }} as weight
    from {{ ref("stg_charges") }}
    where context_tier = 'long' and quantity_unit = 'tokens' and quantity > 0
),

matched as ({{ match_finest("lines", "cells", levels) }}),

proven as (
    select
        cells.cell_id,
        sum({{ portion(quantity_weight("requests.quantity"), "requests.share_weight", "requests.share_total") }}) as asked
    from {{ ref("int_requests_matched") }} as requests
    inner join cells on requests.cell_id = cells.cell_id
    where requests.context_tier = 'long'
    group by cells.cell_id
),

lines_on_cells as (
    select
        matched.cell_id,
        lines.weight as billed,
        least(coalesce(proven.asked, 0), cells.weight) as proven,
        cells.weight - least(coalesce(proven.asked, 0), cells.weight) as open,
        sum(least(coalesce(proven.asked, 0), cells.weight)) over line as proven_total,
        sum(cells.weight - least(coalesce(proven.asked, 0), cells.weight)) over line as open_total
    from matched
    inner join lines on matched.named_id = lines.named_id
    inner join cells on matched.cell_id = cells.cell_id
    left join proven on matched.cell_id = proven.cell_id
    window line as (partition by matched.named_id)
),

billed as (
    select
        cell_id,
        sum(
            case
                when billed < proven_total then {{ portion("billed", "proven", "proven_total") }}
                when open_total = 0 then proven
                else proven + {{ portion("billed - proven_total", "open", "open_total") }}
            end
        ) as weight
    from lines_on_cells
    group by cell_id
)

select
    cells.cell_id,
    (
        least(cells.weight, coalesce(billed.weight, proven.asked))::decimal(38, 0) * 0.001::decimal(4, 3)
    )::decimal(38, 12) as long_quantity
from cells
left join billed on cells.cell_id = billed.cell_id
left join proven on cells.cell_id = proven.cell_id
where billed.cell_id is not null or proven.cell_id is not null
