-- The causes with their evidence add up to the causes of the day.
{{ config(meta={"dagster": {"ref": {"name": "reconciliation_causes"}}}) }}
{% set day = ["usage_date", "provider", "account_id"] %}
{% set found %}
(
    select
        {{ day | join(", ") }},
        case concat(delta, ', ', cause)
            {% for cause in causes_of_deltas() %}
            when '{{ cause.delta }}, {{ cause.cause }}' then '{{ cause.column }}'
            {% endfor %}
        end as measure,
        amount_usd
    from {{ ref("reconciliation_causes") }}
    union all
    select {{ day | join(", ") }}, measure, 0 as amount_usd
    from {{ reconciled_measures(ref("reconciliation_daily"), day, []) }}
)
{% endset %}
{{ not_conserved(
    reconciled_measures(ref("reconciliation_daily"), day, []), found, day + ["measure"], "usd", "amount_usd"
) }}
