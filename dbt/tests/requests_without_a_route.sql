-- Requests whose provider reports or bills that day, but that no route gives an account: they divide no cost, so what
-- they caused stays with the owner of the key. A warning, with the lines to write below the gateway in sources.yaml.
{{ config(severity="warn", meta={"dagster": {"ref": {"name": "int_requests_rated"}}}) }}
with reported as (
    select usage_date, provider, account_id from {{ ref("stg_usage") }}
    union
    select usage_date, provider, account_id from {{ ref("stg_charges") }} where {{ bills_usage("charge_category") }}
),

accounts as (select usage_date, provider, list(account_id order by account_id) as accounts from reported group by all)

select
    requests.gateway,
    requests.provider,
    sum(requests.quantity) filter (where requests.meter = 'requests') as requests,
    sum(requests.rated_cost) as rated_usd,
    min(requests.usage_date) as first_date,
    max(requests.usage_date) as last_date,
    concat(
        'routes: [{provider: ', requests.provider, ', account: ',
        array_to_string(list_sort(list_distinct(flatten(list(accounts.accounts)))), ' or '),
        ', provider_project: <the project of the gateway''s key>, api_key: <the id of that key>}]'
    ) as what_to_write
from {{ ref("int_requests_rated") }} as requests
inner join accounts
    on requests.usage_date = accounts.usage_date
    and requests.provider = accounts.provider
    -- reports without an account are met by requests without one
    and not list_contains(list_transform(accounts.accounts, lambda account: account is null), true)
where requests.account_id is null
group by requests.gateway, requests.provider
