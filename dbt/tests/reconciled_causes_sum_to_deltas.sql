-- The named causes are all of each delta, to the last digit, in every table of the reconciliation.
{{ config(meta={"dagster": {"ref": {"name": "reconciliation_daily"}}}) }}
{% set deltas = {
    "billed minus usage": "billed_minus_usage_usd",
    "usage minus requests": "usage_minus_requests_usd",
} %}
{% for mart in ["reconciliation_daily", "reconciliation_monthly", "reconciliation_by_key"] %}
{% set mart_loop = loop %}
{% for delta, column in deltas.items() %}
select
    '{{ mart }}' as mart,
    '{{ delta }}' as delta,
    provider,
    account_id,
    {{ column }} as delta_usd,
    {{ causes_of_deltas() | selectattr("delta", "equalto", delta) | map(attribute="column") | join(" + ") }} as causes_usd
from {{ ref(mart) }}
where {{ column }} is distinct from causes_usd
{{ "union all" if not (loop.last and mart_loop.last) }}
{% endfor %}
{% endfor %}
