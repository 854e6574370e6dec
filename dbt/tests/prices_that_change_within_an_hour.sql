-- Requests are kept by the hour, so one in an hour in which its price changes (some off-peak prices do at half past)
-- is priced as at the end of that hour. A warning, with the cost in question: half hours would double every rollup for
-- two models of one provider.
{{ config(severity="warn", meta={"dagster": {"ref": {"name": "int_requests_rated"}}}) }}
with changes as (
    select distinct provider, model_key, extract(hour from from_time) as changing_hour
    from {{ ref("stg_rates") }}
    where extract(minute from from_time) <> 0 or extract(second from from_time) <> 0
)

select
    requests.gateway,
    requests.provider,
    requests.model_key,
    requests.started_hour,
    sum(requests.quantity) filter (where requests.meter = 'requests') as requests,
    sum(requests.quantity) filter (where requests.unit = 'tokens') as tokens,
    min(requests.usage_date) as first_date,
    max(requests.usage_date) as last_date
from {{ ref("stg_requests") }} as requests
inner join changes
    on requests.provider = changes.provider
    and requests.model_key = changes.model_key
    and requests.started_hour = changes.changing_hour
group by all
