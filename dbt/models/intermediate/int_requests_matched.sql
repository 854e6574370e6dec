-- One row per request coordinate and cell that it went through, with the share of the coordinate that counts for the
-- cell. A coordinate is what requests and cells have in common: identity, model, tiers, meter.
{% set identity = ["provider_project_id", "api_key_id", "is_beside_usage"] %}
{% set levels = [
    ("exact", identity + ["model", "meter", "service_tier", "context_tier"]),
    ("catalogue model", identity + ["model_key", "meter", "service_tier", "context_tier"]),
    ("without context tier", identity + ["model_key", "meter", "service_tier"]),
    ("without service tier", identity + ["model_key", "meter"]),
] %}
with coordinates as (
    select
        coordinate_id as named_id,
        usage_date,
        provider,
        account_id,
        provider_project_id,
        api_key_id,
        null as is_beside_usage,
        model,
        model_key,
        meter,
        service_tier,
        context_tier,
        sum(quantity) as quantity
    from {{ ref("int_requests_rated") }}
    group by all
),

matched as (
    {{ match_finest(
        "coordinates", ref("int_cells_collected"), levels,
        reserved=("is_beside_usage", ["provider_project_id", "api_key_id"])
    ) }}
),

-- Cells that compete for the same requests share them by quantity, or by what they cost where one has none. A line
-- that names no meter does not compete with those that do.
weighted as (
    select
        matched.named_id as coordinate_id,
        matched.cell_id,
        matched.match_level,
        cells.meter is not null as has_meter,
        case
            when count(*) over competitors = count(cells.quantity) over competitors
                then {{ quantity_weight("cells.quantity") }}
            else {{ money_weight("abs(coalesce(cells.billed_usd, 0))") }}
        end as cell_weight
    from matched
    inner join {{ ref("int_cells_collected") }} as cells
        on matched.cell_id = cells.cell_id
    window competitors as (partition by matched.named_id, cells.meter is not null)
),

competing as (
    select coordinate_id, has_meter, sum(cell_weight) as weight_total
    from weighted
    group by all
)

-- The coordinate counts for the cell by share_weight / share_total.
select
    weighted.coordinate_id,
    weighted.cell_id,
    weighted.match_level,
    coordinates.context_tier,
    coordinates.quantity,
    case when coalesce(competing.weight_total, 0) = 0 then 1 else weighted.cell_weight end as share_weight,
    case when coalesce(competing.weight_total, 0) = 0 then 1 else competing.weight_total end as share_total
from weighted
inner join competing
    on weighted.coordinate_id = competing.coordinate_id
    and weighted.has_meter = competing.has_meter
inner join coordinates
    on weighted.coordinate_id = coordinates.named_id
