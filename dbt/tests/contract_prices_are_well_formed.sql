-- A row that sets no price or two, holds on no day, or competes with another that says as much, changes bills by
-- accident.
with judged as (
    select
        contract.*,
        case
            when usd_per_million is null and discount_percent is null
                then 'neither usd_per_million nor discount_percent is set'
            when usd_per_million is not null and discount_percent is not null
                then 'both usd_per_million and discount_percent are set'
            when usd_per_million < 0 then 'usd_per_million is negative'
            when discount_percent > 100 then 'discount_percent is more than 100'
            when usd_per_million is not null and meter is null then 'usd_per_million is set for no meter'
            when valid_to <= valid_from then 'valid_to is not after valid_from'
            when count(*) over (
                partition by provider, account_id, model, meter, service_tier, valid_from
            ) > 1 then 'another row says as much from the same day on'
        end as problem
    from {{ ref("contract_prices") }} as contract
)

select * from judged where problem is not null
