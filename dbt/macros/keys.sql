{# A text that is the same for equal values and different for others; null differs from every text. #}
{% macro key_of(columns) -%}
    concat_ws(chr(31) {%- for column in columns -%}, coalesce({{ column }}::varchar, chr(30)){%- endfor -%})
{%- endmacro %}
