-- A project or key is one account's: a line of it with the same text and amount from two sources is one bill, pulled
-- under two entries of sources.yaml. Lines of one source are never compared: reports do send several with the same
-- dimensions, which are parts of one whole.
{{ config(meta={"dagster": {"ref": {"name": "stg_charges"}}}) }}
with lines as (
    select
        *,
        -- what every account has is nobody's
        nullif(provider_project_id, 'default') as issued_project_id,
        {{ named_key("api_key_id") }} as issued_key_id
    from {{ ref("stg_charges") }}
    where billed_cost <> 0
),

twice as (
    select
        usage_date,
        provider,
        issued_project_id,
        issued_key_id,
        line_item,
        billed_cost,
        currency,
        list_sort(list_distinct(list(source))) as sources,
        list_sort(list_distinct(list(account_id))) as accounts
    from lines
    where coalesce(issued_project_id, issued_key_id) is not null
    group by all
    having count(distinct source) > 1
)

select
    provider,
    array_to_string(sources, ', ') as sources,
    array_to_string(accounts, ', ') as accounts,
    count(*) as lines_pulled_twice,
    sum(billed_cost) as billed_cost,
    currency,
    min(usage_date) as first_date,
    max(usage_date) as last_date,
    any_value(coalesce(issued_project_id, issued_key_id)) as for_example,
    'remove all but one of these sources from sources.yaml, and what the lake has of them' as remedy
from twice
group by provider, sources, accounts, currency
order by lines_pulled_twice desc, sources
