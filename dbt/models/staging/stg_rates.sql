-- One row per provider, model, meter, tier, context band, time of day and validity period of the rate card.
-- A rate holds for contexts above `context_above_tokens` and not above `context_up_to_tokens`.
select
    provider,
    model_key,
    meter,
    service_tier,
    context_above_tokens,
    lead(context_above_tokens, 1, 9223372036854775807) over (
        partition by provider, model_key, meter, service_tier, from_time, to_time, valid_from
        order by context_above_tokens
    ) as context_up_to_tokens,
    from_time,
    to_time,
    valid_from,
    valid_to,
    usd_per_unit
from {{ source("lake", "rate_card") }}
