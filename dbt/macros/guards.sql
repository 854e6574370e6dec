{# Whether two amounts in USD for the same usage are more than `factor` times apart. Below a cent nothing is told: a bill
   may round to cents. #}
{% macro is_implausible(billed_usd, rated_usd, factor) -%}
    (
        greatest({{ billed_usd }}, {{ rated_usd }}) >= 0.01
        and (
            {{ billed_usd }} > {{ rated_usd }} * {{ factor }}
            or {{ billed_usd }} * {{ factor }} < {{ rated_usd }}
        )
    )
{%- endmacro %}

{# How far apart, in words. #}
{% macro times_apart(billed_usd, rated_usd) -%}
    case
        when {{ billed_usd }} > {{ rated_usd }}
            then format('billed {:.1f} times the known price', {{ billed_usd }} / {{ rated_usd }})
        else format('billed 1/{:.1f} of the known price', {{ rated_usd }} / {{ billed_usd }})
    end
{%- endmacro %}

{# Whether a quantity is another one, but for what is booked on the other side of midnight. #}
{% macro is_within_a_thousandth(quantity, other) -%}
    abs({{ quantity }} - {{ other }}) * 1000 <= {{ other }}
{%- endmacro %}
