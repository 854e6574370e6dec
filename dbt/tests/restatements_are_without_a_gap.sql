-- Each amount in the ledger begins where the one before it ended, and the last one is what the bill says now. A gap is a
-- pull whose rows are missing or there twice, or a file of the lake that something else than a pull has replaced.
{{ config(severity="warn", meta={"dagster": {"ref": {"name": "restatements"}}}) }}
with amounts as (
    select
        charge_id,
        currency,
        pull_id,
        before,
        after,
        lead(pull_id) over following as next_pull_id,
        lead(before) over following as next_before
    from {{ ref("restatements") }}
    where record_kind = 'charge' and measure = 'billed_cost'
    window following as (partition by charge_id, currency order by pull_id)
)

select
    amounts.charge_id,
    amounts.currency,
    amounts.pull_id,
    amounts.after,
    amounts.next_pull_id,
    amounts.next_before,
    charges.billed_cost
from amounts
left join {{ ref("fct_charges") }} as charges
    on amounts.charge_id = charges.charge_id
    and amounts.currency = charges.currency
where
    case when amounts.next_pull_id is null then charges.billed_cost else amounts.next_before end
    is distinct from amounts.after
