-- One row per fragment: the smallest piece of money that still knows the charge it came from, the usage cell that it
-- was spread to, and the group of requests that caused it (null where no gateway saw it).
-- It is a view of tables only: `check-map` asks it again when the lake has moved on.
{{ config(materialized="view") }}
with spread as (
    select
        *,
        {{ quantity_units("quantity") }} as quantity_units,
        {{ whole_units("abs(amount)") }} as whole_amount,
        {{ whole_units("abs(quantity)", quantity_units("quantity")) }} as whole_quantity
    from {{ ref("int_charges_spread") }}
),

cut_cells as (
    select
        spread.cell_id,
        spread.charge_id,
        spread.charge_match,
        spread.cost_basis,
        covered.request_group_id,
        covered.match_level as request_match,
        {{ exact_share(
            "spread.amount", "covered.weight", "covered.weight_upto", "covered.weight_total", whole="spread.whole_amount"
        ) }} as cost_usd,
        {{ exact_share(
            "spread.quantity", "covered.quantity_weight", "covered.quantity_weight_upto",
            "covered.quantity_weight_total", "spread.quantity_units", whole="spread.whole_quantity"
        ) }} as quantity
    from spread
    inner join {{ ref("int_cells_covered") }} as covered on spread.cell_id = covered.cell_id
),

of_cells as (
    select
        cut_cells.charge_id,
        cut_cells.cell_id,
        cut_cells.request_group_id,
        cut_cells.charge_match,
        coalesce(cut_cells.request_match, 'unseen by any gateway') as request_match,
        cut_cells.cost_basis,

        cells.usage_date,
        cells.provider,
        cells.account_id,
        coalesce(cells.provider_project_id, requests.provider_project_id, charges.provider_project_id) as provider_project_id,
        -- a name belongs to its own id
        case
            when cells.provider_project_id is not null then cells.provider_project_name
            when requests.provider_project_id is null then charges.provider_project_name
        end as provider_project_name,
        coalesce(cells.api_key_id, requests.api_key_id, charges.api_key_id) as api_key_id,
        case
            when cells.api_key_id is not null then cells.api_key_name
            when requests.api_key_id is null then charges.api_key_name
        end as api_key_name,
        coalesce(cells.principal_id, charges.principal_id) as principal_id,
        case when cells.principal_id is not null then cells.principal_name else charges.principal_name end
            as principal_name,

        coalesce(requests.operation, cells.operation) as operation,
        cells.model,
        cells.meter,
        cells.unit as quantity_unit,
        cells.service_tier,
        cells.context_tier,
        coalesce(charges.charge_category, 'usage') as charge_category,
        charges.line_item,
        charges.tags as charge_tags,

        cut_cells.quantity,
        cut_cells.cost_usd,
        {{ rated("cut_cells.quantity", "cells.list_usd_per_unit") }} as list_cost_usd,
        cells.price_status
    from cut_cells
    inner join {{ ref("int_cells_rated") }} as cells on cut_cells.cell_id = cells.cell_id
    left join {{ ref("stg_charges") }} as charges on cut_cells.charge_id = charges.charge_id
    left join {{ ref("int_request_groups") }} as requests on cut_cells.request_group_id = requests.request_group_id
),

-- Where a provider's account has neither bill nor usage report for a day, the requests speak for themselves.
reported_days as (
    select distinct usage_date, provider, account_id from {{ ref("stg_charges") }} where {{ bills_usage("charge_category") }}
    union
    select distinct usage_date, provider, account_id from {{ ref("int_cells_collected") }} where evidence = 'usage'
),

alone as (
    select
        requests.*,
        bool_or(requests.rated_cost is not null and requests.quantity > 0 and requests.meter <> 'requests')
            over (partition by requests.request_group_id) as is_priced
    from {{ ref("int_requests_rated") }} as requests
    where not exists (
        select 1
        from reported_days
        where reported_days.usage_date = requests.usage_date
            and reported_days.provider = requests.provider
            and (requests.account_id is null or reported_days.account_id = requests.account_id)
    )
)

select * from of_cells
union all
select
    null as charge_id,
    null as cell_id,
    request_group_id,
    null as charge_match,
    'requests alone' as request_match,
    case
        when rated_cost is not null or (meter = 'requests' and is_priced) then 'rated_requests'
        when meter = 'requests' and reported_cost is not null then 'reported'
        else 'unpriced'
    end as cost_basis,

    usage_date,
    provider,
    account_id,
    provider_project_id,
    null as provider_project_name,
    api_key_id,
    null as api_key_name,
    null as principal_id,
    null as principal_name,

    operation,
    model,
    meter,
    unit as quantity_unit,
    service_tier,
    context_tier,
    'usage' as charge_category,
    null as line_item,
    null as charge_tags,

    quantity,
    case
        when rated_cost is not null then rated_cost
        when meter = 'requests' and is_priced then 0
        when meter = 'requests' then reported_cost
    end as cost_usd,
    list_cost as list_cost_usd,
    case when rated_cost is null then 'unpriced' else 'list' end as price_status
from alone
where quantity > 0
