-- One row per request coordinate and cell that it is compared with, with its exact part of both; and one per coordinate
-- that met no cell, or whose context the cell does not have (cell_id is null). Quantities are in thousandths.
-- A coordinate counts once: by the cells that have a meter, else by lines of the bill that name none.
with coordinates as (
    select
        coordinate_id,
        any_value(usage_date) as usage_date,
        any_value(provider) as provider,
        any_value(account_id) as account_id,
        any_value(provider_project_id) as provider_project_id,
        any_value(api_key_id) as api_key_id,
        any_value(model) as model,
        any_value(model_key) as model_key,
        any_value(meter) as meter,
        any_value(unit) as unit,
        any_value(service_tier) as service_tier,
        any_value(context_tier) as context_tier,
        bool_and(rated_cost is not null or quantity = 0) as is_priced,
        sum(rated_cost) as rated_cost,
        {{ quantity_weight("sum(quantity)") }} as weight
    from {{ ref("int_requests_rated") }}
    group by coordinate_id
),

candidates as (
    select
        matched.coordinate_id,
        matched.cell_id,
        matched.share_weight,
        cells.meter is not null as has_meter
    from {{ ref("int_requests_matched") }} as matched
    inner join {{ ref("int_cells_collected") }} as cells on matched.cell_id = cells.cell_id
),

met as (
    select
        coordinate_id,
        cell_id as whole_cell_id,
        share_weight,
        sum(share_weight) over (competitors order by cell_id rows unbounded preceding) as share_upto,
        sum(share_weight) over (competitors) as share_total
    from candidates
    where has_meter or coordinate_id not in (select others.coordinate_id from candidates as others where others.has_meter)
    window competitors as (partition by coordinate_id)
)

select
    coordinates.coordinate_id,
    met.whole_cell_id,
    cells.cell_id,

    coordinates.usage_date,
    coordinates.provider,
    coordinates.account_id,
    case when met.whole_cell_id is null then coordinates.provider_project_id else whole.provider_project_id end
        as provider_project_id,
    case when met.whole_cell_id is null then coordinates.api_key_id else whole.api_key_id end as api_key_id,
    case when met.whole_cell_id is null then coordinates.model else whole.model end as model,
    case when met.whole_cell_id is null then coordinates.model_key else whole.model_key end as model_key,
    coordinates.meter,
    coordinates.unit,

    coordinates.is_priced,
    -- prices are by model, tier and context: the same terms have the same price, but for the time of day
    coalesce(coordinates.model_key, '') = coalesce(whole.model_key, '')
    and coalesce(coordinates.service_tier, 'standard') = coalesce(whole.service_tier, 'standard')
    and coordinates.context_tier = coalesce(cells.context_tier, 'short') as is_on_same_terms,
    -- most coordinates meet one cell, or none
    case
        when met.whole_cell_id is null or met.share_weight = met.share_total then coordinates.rated_cost
        else {{ exact_share("coordinates.rated_cost", "met.share_weight", "met.share_upto", "met.share_total") }}
    end::decimal(38, 12) as rated_cost,
    case
        when met.whole_cell_id is null or met.share_weight = met.share_total then coordinates.weight
        else
            {{ portion("coordinates.weight", "met.share_upto", "met.share_total") }}
            - {{ portion("coordinates.weight", "(met.share_upto - met.share_weight)", "met.share_total") }}
    end as weight
from coordinates
left join met on coordinates.coordinate_id = met.coordinate_id
left join {{ ref("int_cells_collected") }} as whole on met.whole_cell_id = whole.cell_id
left join {{ ref("int_cells_rated") }} as cells
    on met.whole_cell_id = cells.whole_cell_id
    and (not cells.is_context_told or cells.context_tier = coordinates.context_tier)
