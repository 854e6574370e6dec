-- One row per UTC day, team, project, environment, service, provider, model and cost basis; corrections of closed months are rows of
-- their own, on the first day of the month that they are booked in.
select
    usage_date,
    team,
    project,
    environment,
    service,
    provider,
    model,
    cost_basis,
    sum(cost_usd)::decimal(38, 12) as cost_usd,
    sum(list_cost_usd)::decimal(38, 12) as list_cost_usd,
    (sum(quantity) filter (where meter = 'requests'))::bigint as requests,
    (sum(quantity) filter (where meter = 'input'))::bigint as input_tokens,
    (sum(quantity) filter (where meter = 'cache_read'))::bigint as cache_read_tokens,
    (sum(quantity) filter (where starts_with(meter, 'cache_write')))::bigint as cache_write_tokens,
    (sum(quantity) filter (where meter = 'output'))::bigint as output_tokens,
    date_trunc('month', corrects_date)::date as corrects_month
from {{ ref("fct_cost_allocations") }}
group by all
