{# What an identity can be recognised by in the ownership map, the most durable first: key of the selector, column, the
   column of the name for people, and whether it says nothing without the provider. #}
{% macro durable_keys() -%}
    {{ return([
        ("gateway_key", "coalesce(nullif(gateway_key_id, ''), gateway_key_name)", "gateway_key_name", false),
        ("gateway_user", "gateway_user", "gateway_user", false),
        ("gateway_team", "gateway_team", "gateway_team", false),
        ("api_key", "coalesce(nullif(" ~ named_key("api_key_id") ~ ", ''), api_key_name)", "api_key_name", false),
        ("principal", "principal_id", "principal_id", false),
        ("provider_project", "coalesce(nullif(provider_project_id, ''), provider_project_name)",
         "provider_project_name", true),
        ("account", "account_id", "account_id", true),
        ("provider", "provider", "provider", false),
    ]) }}
{%- endmacro %}

{# A value as the ownership map can say it. What it refuses (characters that do not show, blanks around, the stars of a
   glob) becomes a `?`, which matches it; the middle of what looks like a secret key and the end of a very long text a `*`. #}
{% macro sayable(value) -%}
    {%- set shown = "regexp_replace(" ~ value ~ ", '[^\\p{L}\\p{M}\\p{N}\\p{P}\\p{S} ]|[*]|^ | $', '?', 'g')" -%}
    case
        when regexp_matches({{ shown }}, '^sk-[A-Za-z0-9_-]{20,}$')
            then concat(left({{ shown }}, 7), '*', right({{ shown }}, 4))
        when length({{ shown }}) > 1000 then concat(left({{ shown }}, 999), '*')
        else {{ shown }}
    end
{%- endmacro %}

{# A text of one line as a YAML value, whatever it holds. #}
{% macro yaml_text(value) -%}
    concat('"', replace(replace({{ value }}, '\', '\\'), '"', '\"'), '"')
{%- endmacro %}
