-- One row per charge line and cell that it is spread over, at the finest level at which any cell agrees.
-- The number of requests is not a thing that money follows, unless a line bills it or nothing else was counted. What a
-- line says of whose it is, is never dropped: it would be somebody else's then (see int_cells_collected).
{% set identity = ["counted", "evidence", "provider_project_id", "api_key_id"] %}
{% set levels = [
    ("exact", identity + ["model", "meter", "service_tier", "context_tier", "region"]),
    ("catalogue model", identity + ["model_key", "meter", "service_tier", "context_tier", "region"]),
    ("without region", identity + ["model_key", "meter", "service_tier", "context_tier"]),
    ("without context tier", identity + ["model_key", "meter", "service_tier"]),
    ("without service tier", identity + ["model_key", "meter"]),
    ("without meter", identity + ["model_key"]),
    ("without model", identity),
    ("without API key", ["counted", "evidence", "provider_project_id", "named_key_id"]),
    ("requests only", ["evidence", "provider_project_id", "named_key_id"]),
] %}
with cells as (
    select
        cell_id, usage_date, provider, account_id, provider_project_id, api_key_id, api_key_id as named_key_id, model,
        model_key, meter, service_tier, context_tier, region, evidence,
        case when meter = 'requests' then 'requests' else 'usage' end as counted
    from {{ ref("int_cells_rated") }}
),

charges as (
    select
        charge_id as named_id, usage_date, provider, account_id, provider_project_id, api_key_id,
        {{ named_key("api_key_id") }} as named_key_id, model, model_key, meter, service_tier, context_tier, region,
        -- usage that has a line of its own is paid
        case when {{ stands_for_usage("charges") }} then 'usage' end as evidence,
        case when meter = 'requests' then 'requests' else 'usage' end as counted
    from {{ ref("stg_charges") }} as charges
    where charge_id not in (
        select collected.charge_id
        from {{ ref("int_cells_collected") }} as collected
        where collected.charge_id is not null
    )
),

matched as ({{ match_finest("charges", "cells", levels, strict=["model", "model_key"]) }})

select
    named_id as charge_id,
    cell_id,
    match_level
from matched
