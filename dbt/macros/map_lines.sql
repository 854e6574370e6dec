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

{# A value without what the ownership map refuses (characters that do not show, blanks around, the stars of a glob): a `?`
   stands there, which matches it. The engine takes a while to prepare this one. #}
{% macro shown(value) -%}
    regexp_replace({{ value }}, '[^\p{L}\p{M}\p{N}\p{P}\p{S} ]|[*]|^ | $', '?', 'g')
{%- endmacro %}

{# A shown value as the map can say it: the middle of what looks like a secret key and the end of a very long text are a
   `*`. #}
{% macro sayable(shown_value) -%}
    case
        when regexp_matches({{ shown_value }}, '^sk-[A-Za-z0-9_-]{20,}$')
            then concat(left({{ shown_value }}, 7), '*', right({{ shown_value }}, 4))
        when length({{ shown_value }}) > 1000 then concat(left({{ shown_value }}, 999), '*')
        else {{ shown_value }}
    end
{%- endmacro %}

{# A text of one line as a YAML value, whatever it holds. #}
{% macro yaml_text(value) -%}
    concat('"', replace(replace({{ value }}, '\', '\\'), '"', '\"'), '"')
{%- endmacro %}
