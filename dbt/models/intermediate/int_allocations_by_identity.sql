-- One row per fragment of the bill and team, where identity decides who pays: all but the lines that a policy allocates.
{{ config(materialized="view") }}
with environments as (
    select written, environment from {{ source("lake", "ownership_environments") }}
)

select
    fragments.usage_date::date as usage_date,
    concat(fragments.fragment_id, '/', coalesce(fragments.team, 'unallocated')) as allocation_id,

    coalesce(fragments.team, 'unallocated') as team,
    coalesce(fragments.project, fragments.tags['project'], 'unspecified') as project,
    coalesce(
        fragments.environment, environments.environment, lower(trim(fragments.tags['environment'])), 'unspecified'
    ) as environment,
    coalesce(fragments.service, fragments.tags['service'], 'unspecified') as service,
    fragments.tags['feature'] as feature,
    fragments.tags['customer'] as customer,
    fragments.tags['experiment'] as experiment,
    fragments.tags,

    fragments.provider,
    fragments.account_id,
    fragments.provider_project_id,
    fragments.provider_project_name,
    fragments.api_key_id,
    fragments.api_key_name,
    fragments.principal_id,
    fragments.gateway,
    fragments.gateway_key_id,
    fragments.gateway_key_name,
    fragments.gateway_team,
    fragments.gateway_user,

    fragments.operation,
    coalesce(fragments.model, 'unspecified') as model,
    coalesce(fragments.meter, 'unspecified') as meter,
    fragments.service_tier,
    fragments.context_tier,
    fragments.charge_category,
    fragments.line_item,

    fragments.quantity::decimal(38, 12) as quantity,
    fragments.quantity_unit,
    fragments.cost_usd::decimal(38, 12) as cost_usd,
    fragments.list_cost_usd::decimal(38, 12) as list_cost_usd,
    fragments.cost_basis,
    fragments.price_status,

    fragments.charge_id,
    fragments.cell_id,
    fragments.charge_match,
    fragments.request_match,
    fragments.rule,
    fragments.rule_place,
    fragments.owner_evidence,
    fragments.identity_id,
    fragments.claimed_team,
    fragments.claimed_rule_place,

    fragments.split_share,
    fragments.split_weight,
    fragments.split_total,
    fragments.split_driver,
    fragments.split_period_start
from {{ ref("int_fragments_split") }} as fragments
left join environments
    on lower(trim(fragments.tags['environment'])) = environments.written
