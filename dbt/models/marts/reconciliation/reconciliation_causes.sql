-- One row per UTC day, provider, account, delta, cause and what that is about: a key, a model and meter, a line of the
-- bill, or the whole day. The amounts sum to the causes of reconciliation_daily.
{% set key = ["provider_project_id", "api_key_id"] %}
{% set meter = ["model", "meter"] %}
{% set line = ["charge_category", "line_item"] %}
{# What each finding is about, and how it is told. #}
{% set findings = {
    "priced": (meter, "concat(what, ' is billed at ', round(price_factor::double, 4), ' of our price')"),
    "unpriced": (meter, "concat(what, ' is billed and has no price of ours')"),
    "quantity": (meter, "concat(what, ': the bill counts another quantity, tier or context than the usage report')"),
    "coarser": (meter, "concat(what, ' is paid by lines of another meter, tier or context')"),
    "billed otherwise": (meter, "concat(what, ': no line bills it, but others of the model bill more than was used')"),
    "apart": (line, "billing"),
    "no bill": ([], "'no bill yet'"),
    "without report": (line, "concat(billing, ': the line has no quantity and there is no usage report')"),
    "without usage": (key + line, "concat(billing, ': the usage report has none of it')"),
    "unnamed": (line, "concat(billing, ': names neither model nor meter, and other lines bill the usage')"),
    "unbilled": (key + meter, "concat(who, ': ', what, ' was used and no line bills it')"),
    "unseen": (key, "case when amount_usd = used_usd then concat(who, ' bypasses the gateways') else"
        ~ " concat(who, ': ', round(100 * amount_usd / used_usd, 2), '% was seen by no gateway') end"),
    "beyond usage": (key, "concat(who, ': its requests add up to more than the usage report')"),
    "unreported": (key + ["model"], "concat(who, ': requests of ', what, ' that the usage report does not have')"),
    "counted otherwise": (meter, "concat(what, ': gateways count what the provider counts as another meter or tier')"),
    "rated otherwise": (meter, "concat(what, ': gateways log another model, tier or context than was used')"),
    "time of day": (meter, "concat(what, ': its price depends on the hour, which only requests know, or is rounded')"),
    "usage unpriced": (meter, "concat(what, ': the model that was used has no price of ours')"),
    "requests unpriced": (meter, "concat(what, ': the model that gateways log has no price of ours')"),
    "no usage": ([], "'no usage report yet'"),
} %}
with about as (
    select
        usage_date,
        provider,
        account_id,
        delta,
        cause,
        finding,
        {%- for column in key + meter + line %}
        case
            when finding in (
                {%- for finding, (subject, _) in findings.items() if column in subject -%}
                '{{ finding }}'{{ ", " if not loop.last }}
                {%- endfor -%}
            ) then {{ column }}
        end as {{ column }},
        {%- endfor %}
        provider_project_name,
        api_key_name,
        amount_usd,
        base_usd
    from {{ ref("int_causes_found") }}
),

summed as (
    select
        usage_date,
        provider,
        account_id,
        delta,
        cause,
        finding,
        {{ (key + meter + line) | join(", ") }},
        case when provider_project_id is not null then max(provider_project_name) end as provider_project_name,
        case when api_key_id is not null then max(api_key_name) end as api_key_name,
        sum(about.amount_usd) as amount_usd,
        case
            when sum(base_usd) > 0 then ((sum(base_usd) + sum(about.amount_usd)) / sum(base_usd))::decimal(38, 6)
        end as price_factor
    from about
    group by usage_date, provider, account_id, delta, cause, finding, {{ (key + meter + line) | join(", ") }}
    having sum(about.amount_usd) <> 0
),

keys as (
    select usage_date, provider, account_id, provider_project_id, api_key_id, sum(rated_usage_usd) as used_usd
    from {{ ref("int_cells_reconciled") }}
    group by all
),

told as (
    select
        summed.*,
        keys.used_usd,
        case
            when summed.api_key_id is not null then concat(summed.api_key_id, ' (' || summed.api_key_name || ')')
            when summed.provider_project_id is not null
                then concat(summed.provider_project_id, ' (' || summed.provider_project_name || ')')
            else 'no key named'
        end as who,
        concat_ws(' ', summed.model, summed.meter) as what,
        concat_ws(': ', summed.charge_category, summed.line_item) as billing
    from summed
    left join keys
        on summed.usage_date = keys.usage_date
        and summed.provider = keys.provider
        and summed.account_id is not distinct from keys.account_id
        and summed.provider_project_id is not distinct from keys.provider_project_id
        and summed.api_key_id is not distinct from keys.api_key_id
)

select
    usage_date::date as usage_date,
    provider,
    account_id,
    delta,
    cause,
    case finding
        {%- for finding, (_, evidence) in findings.items() %}
        when '{{ finding }}' then {{ evidence }}
        {%- endfor %}
    end as evidence,

    provider_project_id,
    provider_project_name,
    api_key_id,
    api_key_name,
    model,
    meter,
    charge_category,
    line_item,

    amount_usd::decimal(38, 12) as amount_usd,
    price_factor
from told
