{# An amount of `currency` in USD: the exact product, rounded once to twelve decimals, half away from zero. #}
{% macro in_usd(amount, currency, usd_per_unit) -%}
    case when {{ currency }} = 'USD' then {{ amount }} else {{ amount }} * {{ usd_per_unit }} end::decimal(38, 12)
{%- endmacro %}
