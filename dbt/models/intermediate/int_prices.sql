-- One row per priced coordinate: UTC day, hour (null for a whole day), account, model, meter, tier and context band.
-- Dates, tiers, contexts and contract overrides are resolved here, once for each distinct coordinate.
with coordinates as (
    select distinct
        usage.usage_date, null::bigint as started_hour, usage.provider, usage.account_id, usage.model_key, usage.meter,
        usage.service_tier, bands.context_above_tokens
    from {{ ref("stg_usage") }} as usage
    cross join (values (0), ({{ any_long_context() }})) as bands (context_above_tokens)
    union
    select distinct
        usage_date, null::bigint as started_hour, provider, account_id, model_key, meter,
        service_tier, {{ band_of("context_tier") }} as context_above_tokens
    from {{ ref("stg_charges_delivered") }}
    where meter is not null
    union
    select distinct
        usage_date, started_hour, provider, account_id, model_key, meter, service_tier, context_above_tokens
    from {{ ref("stg_requests") }}
),

identified as (
    select
        coordinates.*,
        {{ key_of(
            ["usage_date", "started_hour", "provider", "account_id", "model_key", "meter", "service_tier",
             "context_above_tokens"]
        ) }} as coordinate_id
    from coordinates
),

-- The row of the coordinate's own tier, else the standard tier; of several times of day the dearest for a whole day.
listed as (
    select
        identified.coordinate_id,
        rates.usd_per_unit,
        identified.service_tier is not null and rates.service_tier <> identified.service_tier as is_other_tier,
        row_number() over (
            partition by identified.coordinate_id
            order by
                case when rates.service_tier = identified.service_tier then 0 else 1 end,
                rates.usd_per_unit desc
        ) as choice
    from identified
    inner join {{ ref("stg_rates") }} as rates
        on identified.provider = rates.provider
        and identified.model_key = rates.model_key
        and identified.meter = rates.meter
        and rates.service_tier in (coalesce(identified.service_tier, 'standard'), 'standard')
        and {{ holds_on("rates", "identified.usage_date") }}
        and identified.context_above_tokens >= rates.context_above_tokens
        and identified.context_above_tokens < rates.context_up_to_tokens
        and (
            identified.started_hour is null
            or rates.from_time is null
            or {{ within_time_of_day("identified.started_hour", "rates.from_time", "rates.to_time") }}
        )
),

-- The contract line that says most; of two that say as much, the later one.
contracted as (
    select
        identified.coordinate_id,
        contract.usd_per_million,
        contract.discount_percent,
        row_number() over (
            partition by identified.coordinate_id
            order by
                case when contract.account_id is null then 1 else 0 end
                + case when contract.model is null then 1 else 0 end
                + case when contract.meter is null then 1 else 0 end
                + case when contract.service_tier is null then 1 else 0 end,
                case when contains(contract.model, '*') then 1 else 0 end,
                length(contract.model) desc,
                contract.valid_from desc,
                contract.account_id,
                contract.model,
                contract.meter,
                contract.service_tier
        ) as choice
    from identified
    inner join {{ ref("contract_prices") }} as contract
        on {{ contract_holds("contract", "identified") }}
),

-- Above which context a model is dearer: what "long" means for it, whichever of its meters has the tier.
thresholds as (
    select provider, model_key, valid_from, valid_to, min(context_above_tokens) as long_above_tokens
    from {{ ref("stg_rates") }}
    where context_above_tokens > 0
    group by all
),

long_contexts as (
    select distinct identified.coordinate_id
    from identified
    inner join thresholds
        on identified.provider = thresholds.provider
        and identified.model_key = thresholds.model_key
        and {{ holds_on("thresholds", "identified.usage_date") }}
        and identified.context_above_tokens >= thresholds.long_above_tokens
)

select
    identified.usage_date,
    identified.started_hour,
    identified.provider,
    identified.account_id,
    identified.model_key,
    identified.meter,
    identified.service_tier,
    identified.context_above_tokens,

    case when long_contexts.coordinate_id is not null then 'long' else 'short' end as context_tier,
    listed.usd_per_unit::decimal(20, 15) as list_usd_per_unit,
    coalesce(
        (contracted.usd_per_million * 0.000001)::decimal(20, 15),
        (listed.usd_per_unit * (1 - coalesce(contracted.discount_percent, 0) * 0.01)::decimal(12, 10))::decimal(20, 15)
    ) as usd_per_unit,
    case
        when contracted.usd_per_million is not null then 'contract'
        when listed.usd_per_unit is null then 'unpriced'
        when contracted.discount_percent is not null then 'discounted'
        when listed.is_other_tier then 'standard tier assumed'
        else 'list'
    end as price_status
from identified
left join listed
    on identified.coordinate_id = listed.coordinate_id and listed.choice = 1
left join contracted
    on identified.coordinate_id = contracted.coordinate_id and contracted.choice = 1
left join long_contexts
    on identified.coordinate_id = long_contexts.coordinate_id
