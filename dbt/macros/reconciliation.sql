{# The causes of each delta of the reconciliation: `column` (of the marts), `delta` and `cause`. #}
{% macro causes_of_deltas() %}
    {%- set causes = [] %}
    {%- for prefix, delta, names in [
        ("billed", "billed minus usage", ["price", "tier_and_cache", "not_usage", "unsettled", "unexplained"]),
        (
            "usage", "usage minus requests",
            ["unseen_traffic", "over_coverage", "tier_and_cache", "price", "unsettled"]
        ),
    ] %}
    {%- for name in names %}
    {%- do causes.append({"column": prefix ~ "_" ~ name ~ "_usd", "delta": delta, "cause": name}) %}
    {%- endfor %}
    {%- endfor %}
    {{ return(causes) }}
{% endmacro %}

{# One column per delta and cause, of rows of `int_causes_found`. #}
{% macro sums_of_causes() %}
    {%- for cause in causes_of_deltas() %}
    sum(amount_usd) filter (where delta = '{{ cause.delta }}' and cause = '{{ cause.cause }}') as {{ cause.column }}
    {{- "," if not loop.last }}
    {%- endfor %}
{% endmacro %}

{# A delta; null where requests are all that is known of the account's day (`is_reported` is false). #}
{% macro delta_of(minuend, subtrahend, is_reported) -%}
    case when {{ is_reported }} then coalesce({{ minuend }}, 0) - coalesce({{ subtrahend }}, 0) end::decimal(38, 12)
{%- endmacro %}

{# What tokens are, however a meter calls them: cached or not, of any kind, input is input. #}
{% macro meter_family(meter, unit) -%}
    case when {{ unit }} = 'tokens' then case when {{ meter }} like 'output%' then 'output' else 'input' end else {{ meter }} end
{%- endmacro %}

{# An amount times part / whole, rounded to twelve decimals; the part may be more than the whole. Nothing is divided where
   the part is all or nothing. #}
{% macro in_proportion(amount, part, whole) -%}
    (
        case
            when {{ part }} = {{ whole }} then {{ amount }}
            when {{ part }} = 0 then 0
            when {{ part }} is not null
                then {{ signed_units(amount, portion(money_weight("abs(" ~ amount ~ ")"), part, whole, whole ~ " // 2")) }}
        end
    )::decimal(38, 12)
{%- endmacro %}

{# So many units of 10^-12 USD, with the sign of an amount. #}
{% macro signed_units(amount, units) -%}
    (sign({{ amount }})::hugeint * ({{ units }}))::decimal(38, 0) * 0.000000000001::decimal(13, 12)
{%- endmacro %}

{# The part of an amount that stands on one side of a family of meters and is made up for on the other. #}
{% macro offset_by_other(amount, own_weight, other_weight) -%}
    case
        when {{ own_weight }} > 0 and {{ other_weight }} > 0
            then {{ in_proportion(amount, "least(" ~ own_weight ~ ", " ~ other_weight ~ ")", own_weight) }}
        else 0
    end
{%- endmacro %}

{# The measures and causes of a table of the reconciliation as rows: what identifies it, `measure` and `usd`. #}
{% macro reconciled_measures(mart, identity, measures=["billed_usd", "rated_usage_usd", "rated_requests_usd"]) -%}
    (
        unpivot (
            select
                {{ identity | join(", ") }}, {{ (measures + causes_of_deltas() | map(attribute="column") | list) | join(", ") }}
            from {{ mart }}
        )
        on columns(* exclude ({{ identity | join(", ") }}))
        into name measure value usd
    )
{%- endmacro %}
