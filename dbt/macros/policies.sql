{# Whether a value matches a pattern of the ownership map; what the map does not say matches everything. #}
{% macro matches_if_said(value, like_pattern) -%}
    ({{ like_pattern }} is null or coalesce({{ value }} like {{ like_pattern }} escape '\', false))
{%- endmacro %}

{# Which account or provider of its kind a row of money belongs to; the same text for all that is divided together. #}
{% macro scope_key(proportional_over) -%}
    case {{ proportional_over }}
        when 'account' then {{ key_of(["provider", "account_id"]) }}
        when 'provider' then provider
        when 'everything' then ''
    end
{%- endmacro %}

{# The value that all rows of a group have; null where they differ. #}
{% macro shared_value(column) -%}
    case when count(*) = count({{ column }}) and min({{ column }}) = max({{ column }}) then min({{ column }}) end
{%- endmacro %}
