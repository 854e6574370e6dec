-- One row per pull, record of a bill or usage report, and column of it that the pull changed after its day was first
-- loaded. A view over the lake: the ledger only grows, and is copied nowhere.
select
    source,
    record_kind,
    usage_date,
    record_id,
    case when record_kind = 'charge' then concat(source, '/', usage_date, '/', record_id) end as charge_id,

    provider,
    account_id,
    provider_project_id,
    api_key_id,
    model,
    service_tier,
    meter,
    charge_category,
    line_item,
    currency,

    change,
    measure,
    before,
    after,
    case when text_before is null and text_after is null then (coalesce(after, 0) - coalesce(before, 0))::decimal(38, 12) end as difference,
    text_before,
    text_after,

    pull_id,
    restated_at,
    date_diff('day', usage_date, restated_at::date) as restated_after_days
from {{ source("lake", "restatements") }}
