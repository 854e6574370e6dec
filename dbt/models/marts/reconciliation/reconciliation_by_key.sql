-- One row per UTC day, provider, account, project, API key, model and meter: what makes up reconciliation_daily.
{% set identity = "usage_date, provider, account_id, provider_project_id, api_key_id, model, meter" %}
with measured as (
    select
        {{ identity }},
        max(provider_project_name) as provider_project_name,
        max(api_key_name) as api_key_name,
        bool_or(is_reported) as is_reported,
        sum(billed_usd) as billed_usd,
        sum(rated_usage_usd) as rated_usage_usd,
        sum(rated_requests_usd) as rated_requests_usd
    from {{ ref("int_cells_reconciled") }}
    group by {{ identity }}
),

causes as (
    select
        {{ identity }},
        {{ sums_of_causes() }}
    from {{ ref("int_causes_found") }}
    group by {{ identity }}
)

select
    measured.usage_date::date as usage_date,
    measured.provider,
    measured.account_id,
    measured.provider_project_id,
    measured.provider_project_name,
    measured.api_key_id,
    measured.api_key_name,
    measured.model,
    measured.meter,

    measured.billed_usd::decimal(38, 12) as billed_usd,
    measured.rated_usage_usd::decimal(38, 12) as rated_usage_usd,
    measured.rated_requests_usd::decimal(38, 12) as rated_requests_usd,

    {{ delta_of("measured.billed_usd", "measured.rated_usage_usd", "measured.is_reported") }} as billed_minus_usage_usd,
    {{ delta_of("measured.rated_usage_usd", "measured.rated_requests_usd", "measured.is_reported") }}
        as usage_minus_requests_usd,
    {%- for cause in causes_of_deltas() %}
    case when measured.is_reported then coalesce(causes.{{ cause.column }}, 0) end::decimal(38, 12) as {{ cause.column }}
    {{- "," if not loop.last }}
    {%- endfor %}
from measured
left join causes
    on measured.usage_date = causes.usage_date
    and measured.provider = causes.provider
    {%- for column in ["account_id", "provider_project_id", "api_key_id", "model", "meter"] %}
    and measured.{{ column }} is not distinct from causes.{{ column }}
    {%- endfor %}
