-- One row per charge line and usage cell that it is spread over, at the finest level at which any cell agrees.
{% set identity = ["provider_project_id", "api_key_id"] %}
{% set levels = [
    ("exact", identity + ["model", "meter", "service_tier", "context_tier", "region"]),
    ("catalogue model", identity + ["model_key", "meter", "service_tier", "context_tier", "region"]),
    ("without region", identity + ["model_key", "meter", "service_tier", "context_tier"]),
    ("without context tier", identity + ["model_key", "meter", "service_tier"]),
    ("without service tier", identity + ["model_key", "meter"]),
    ("without meter", identity + ["model_key"]),
    ("without model", identity),
    ("without API key", ["provider_project_id"]),
    ("without project", []),
] %}
with charges as (
    select
        charge_id as named_id, usage_date, provider, account_id, provider_project_id, api_key_id, model, model_key,
        meter, service_tier, context_tier, region
    from {{ ref("stg_charges") }}
),

-- The number of requests is not a thing that is billed; it follows the money.
cells as (
    select
        cell_id, usage_date, provider, account_id, provider_project_id, api_key_id, model, model_key, meter,
        service_tier, context_tier, region
    from {{ ref("int_cells_rated") }}
    where evidence = 'usage' and meter <> 'requests'
),

matched as ({{ match_finest("charges", "cells", levels) }})

select
    named_id as charge_id,
    cell_id,
    match_level
from matched
