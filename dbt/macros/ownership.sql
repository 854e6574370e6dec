{# Selectors from this level on are claims (tags); all below are durable identity. See dagster_project/ownership/. #}
{% macro claim_level() -%} 60 {%- endmacro %}

{# The level of what was issued to somebody, by the selector's key, and what decided at it, in words. #}
{% macro selector_levels() -%}
    {{ return({
        "gateway_key": (10, "gateway key"),
        "gateway_user": (11, "gateway user"),
        "gateway_team": (12, "gateway team"),
        "api_key": (20, "API key"),
        "principal": (21, "principal"),
        "provider_project": (30, "provider project"),
        "account": (40, "account"),
        "provider": (50, "provider, gateway, model or line item"),
    }) }}
{%- endmacro %}

{# What decided, in words, for a selector's level. #}
{% macro evidence_of(level) -%}
    case
        {%- for number, words in selector_levels().values() %}
        when {{ level }} = {{ number }} then '{{ words }}'
        {%- endfor %}
        when {{ level }} >= {{ claim_level() }} then 'tag'
    end
{%- endmacro %}

{# The keys of a selector besides `tag`, and the columns of an identity that each is compared with. #}
{% macro selector_columns() -%}
    {{ return({
        "provider": ["provider"],
        "account": ["account_id"],
        "provider_project": ["provider_project_id", "provider_project_name"],
        "api_key": ["api_key_id", "api_key_name"],
        "principal": ["principal_id", "principal_name"],
        "gateway": ["gateway"],
        "gateway_key": ["gateway_key_id", "gateway_key_name"],
        "gateway_team": ["gateway_team", "gateway_team_name"],
        "gateway_user": ["gateway_user"],
        "model": ["deciding_model"],
        "line_item": ["deciding_line_item"],
    }) }}
{%- endmacro %}

{# All columns of an identity: what identity_id is made of. #}
{% macro identity_columns() -%}
    {%- set columns = selector_columns().values() | sum(start=[]) -%}
    {{ return(columns + ["deciding_tags"]) }}
{%- endmacro %}

{# The text of a LIKE pattern before its first wildcard (`start`) or after its last (`end`), without escapes. #}
{% macro fixed_text(like_pattern, side) -%}
    {%- set literal = "(?:[^%_\\\\]|\\\\.)*" -%}
    {%- set where = {"start": "(?s)^(" ~ literal ~ ")", "end": "(?s)^(?:" ~ literal ~ "[%_])*(" ~ literal ~ ")$"} -%}
    regexp_replace(regexp_extract({{ like_pattern }}, '{{ where[side] }}', 1), '(?s)\\(.)', '\1', 'g')
{%- endmacro %}

{# The first UTC day of the month or day that a split by usage is taken of. #}
{% macro split_period_start(split_period, usage_date) -%}
    case {{ split_period }}
        when 'month' then date_trunc('month', {{ usage_date }})::date
        when 'day' then {{ usage_date }}::date
    end
{%- endmacro %}
