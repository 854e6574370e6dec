-- A contract line that prices nothing in the lake is most often a misspelt model or meter. A warning, with the line.
{{ config(severity="warn", meta={"dagster": {"ref": {"name": "int_prices"}}}) }}
select contract.*
from {{ ref("contract_prices") }} as contract
where
    not exists (
        select 1
        from {{ ref("int_prices") }} as prices
        where
            prices.provider = contract.provider
            and (contract.account_id is null or prices.account_id = contract.account_id)
            and (contract.model is null or {{ matches_glob("prices.model_key", "contract.model") }})
            and (contract.meter is null or prices.meter = contract.meter)
            and (contract.service_tier is null or coalesce(prices.service_tier, 'standard') = contract.service_tier)
            and prices.usage_date >= contract.valid_from
            and prices.usage_date < coalesce(contract.valid_to, date '9999-12-31')
    )
