-- One row: which build this warehouse is, and what it was built from.
select
    '{{ invocation_id }}' as build_id,
    timestamp '{{ run_started_at.strftime("%Y-%m-%d %H:%M:%S") }}' as built_at,
    code_version,
    price_catalogue,
    {{ digest_of([source("lake", "rate_card"), ref("contract_prices"), ref("fx_rates")]) }} as rate_card_digest,
    {{ digest_of(
        [source("lake", "ownership_selectors"), source("lake", "ownership_conditions"), source("lake", "ownership_owners"),
         source("lake", "ownership_splits"), source("lake", "ownership_services"),
         source("lake", "ownership_environments"), source("lake", "ownership_teams"),
         source("lake", "ownership_policies")]
    ) }} as map_digest,
    (select case when bool_and(last_good_day is not null) then min(last_good_day) end from {{ ref("source_freshness") }})
        as last_good_day
from {{ source("lake", "versions") }}
