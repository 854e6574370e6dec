-- A contract line that prices nothing in the lake is most often a misspelt model or meter. A warning, with the line.
{{ config(severity="warn", meta={"dagster": {"ref": {"name": "int_prices"}}}) }}
select contract.*
from {{ ref("contract_prices") }} as contract
where
    not exists (
        select 1
        from {{ ref("int_prices") }} as prices
        where {{ contract_holds("contract", "prices") }}
    )
