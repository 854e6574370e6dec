{#
  The part of `amount` that a row takes when the amount is split by weights, exact to the last digit.

  `weight` is the row's own integer weight, `upto` the running total of weights in a stable order up to and
  including the row, `total` the weights' sum (not zero). Row i takes cut(upto_i) - cut(upto_i - weight_i), where
  cut(x) = round(amount * x / total), in units of 1 / `units`; the parts telescope to the amount whatever the
  rounding does. Everything is integer arithmetic: `amount` times `units` must be whole, and `total` below 10^19.
#}
{% macro exact_share(amount, weight, upto, total, units="1000000000000") -%}
    {{ return(adapter.dispatch("exact_share")(amount, weight, upto, total, units)) }}
{%- endmacro %}

{# Division gives a DOUBLE in DuckDB, so whole units come back to decimals by multiplication. #}
{% macro duckdb__exact_share(amount, weight, upto, total, units) -%}
    (
        (
            sign({{ amount }})::hugeint * (
                {{ cut(amount, upto, total, units) }}
                - {{ cut(amount, "(" ~ upto ~ " - " ~ weight ~ ")", total, units) }}
            )
        )::decimal(38, 0) * (case when {{ units }} = 1 then 1.0 else 0.000000000001 end)::decimal(13, 12)
    )::decimal(38, 12)
{%- endmacro %}

{% macro cut(amount, x, total, units) -%}
    {%- set whole = "(abs(" ~ amount ~ ") * " ~ units ~ ")::hugeint" -%}
    (({{ whole }} // {{ total }}) * {{ x }} + (({{ whole }} % {{ total }}) * {{ x }} + {{ total }} // 2) // {{ total }})
{%- endmacro %}

{# Money as an integer weight, in units of 10^-12 USD. #}
{% macro money_weight(amount) -%} ({{ amount }} * 1000000000000)::hugeint {%- endmacro %}

{# A quantity as an integer weight, in thousandths. #}
{% macro quantity_weight(quantity) -%} ({{ quantity }} * 1000)::hugeint {%- endmacro %}

{# Quantities that are whole stay whole when they are split; others are split to twelve decimals. #}
{% macro quantity_units(quantity) -%}
    (case when {{ quantity }} = trunc({{ quantity }}) then 1 else 1000000000000 end)
{%- endmacro %}
