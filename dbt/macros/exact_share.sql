{#
  The part of `amount` that a row takes when the amount is split by weights, exact to the last digit.

  `weight` is the row's own integer weight, `upto` the running total of weights in a stable order up to and
  including the row, `total` the weights' sum (not zero). Row i takes cut(upto_i) - cut(upto_i - weight_i), where
  cut(x) = round(amount * x / total), in units of 1 / `units`; the parts telescope to the amount whatever the
  rounding does. Any DECIMAL(38,12) has an exact split, whose `amount` times `units` must be whole; `total` has to be
  below 10^25 (10^13 USD in `money_weight`), or it is an error, never a wrong part. `whole` is `whole_units` of the
  amount without its sign, where few amounts are split among many rows: it costs more than the share.
#}
{% macro exact_share(amount, weight, upto, total, units="1000000000000", whole=none) -%}
    {{ return(adapter.dispatch("exact_share")(amount, weight, upto, total, units, whole)) }}
{%- endmacro %}

{# Division gives a DOUBLE in DuckDB, so whole units come back to decimals by multiplication. #}
{% macro duckdb__exact_share(amount, weight, upto, total, units, whole) -%}
    {%- set whole = whole or whole_units("abs(" ~ amount ~ ")", units) -%}
    (
        (
            sign({{ amount }})::hugeint * (
                {{ portion(whole, upto, total, "(" ~ total ~ ") // 2") }}
                - {{ portion(whole, "(" ~ upto ~ " - " ~ weight ~ ")", total, "(" ~ total ~ ") // 2") }}
            )
        )::decimal(38, 0) * (case when {{ units }} = 1 then 1.0 else 0.000000000001 end)::decimal(13, 12)
    )::decimal(38, 12)
{%- endmacro %}

{# The whole part of (whole * x + plus) / total, for 0 <= x <= total and plus < total. All and nothing need no division,
   which is what costs. Where the product may need more digits than a HUGEINT has, it is divided in two steps of twelve
   digits each, as on paper: slow, and hardly ever needed. #}
{% macro portion(whole, x, total, plus="0") -%}
    {%- set rest = "((" ~ whole ~ ") % (" ~ total ~ "))" -%}
    {%- set high = "(" ~ rest ~ " // 1000000000000 * (" ~ x ~ "))" -%}
    {%- set low = "(" ~ rest ~ " % 1000000000000 * (" ~ x ~ "))" -%}
    {%- set ten_to_18 = "1000000000000000000" -%}
    (
        case
            when ({{ x }}) = ({{ total }}) then {{ whole }}
            when ({{ x }}) = 0 then 0 * ({{ whole }}) -- null of null
            when ({{ whole }}) < {{ ten_to_18 }} and ({{ x }}) < {{ ten_to_18 }}
                then (({{ whole }}) * ({{ x }}) + {{ plus }}) // ({{ total }})
            else
                ({{ whole }}) // ({{ total }}) * ({{ x }})
                + {{ high }} // ({{ total }}) * 1000000000000
                + ({{ high }} % ({{ total }}) * 1000000000000 + {{ low }} + {{ plus }}) // ({{ total }})
        end
    )
{%- endmacro %}

{# An amount in units of 1 / `units`. Where the product may be too long for a decimal, the digits before and after the
   point go apart: that is four divisions. #}
{% macro whole_units(amount, units="1000000000000") -%}
    (
        case
            when abs({{ amount }}) < 10000000000000 then ({{ amount }} * {{ units }})::hugeint
            else
                trunc({{ amount }})::hugeint * {{ units }}
                + (({{ amount }} - trunc({{ amount }})) * {{ units }})::hugeint
        end
    )
{%- endmacro %}

{# Money as an integer weight, in units of 10^-12 USD. #}
{% macro money_weight(amount) -%} {{ whole_units(amount) }} {%- endmacro %}

{# A quantity as an integer weight, in thousandths. #}
{% macro quantity_weight(quantity) -%} ({{ quantity }} * 1000)::hugeint {%- endmacro %}

{# Quantities that are whole stay whole when they are split; others are split to twelve decimals. #}
{% macro quantity_units(quantity) -%}
    (case when {{ quantity }} = trunc({{ quantity }}) then 1 else 1000000000000 end)
{%- endmacro %}
